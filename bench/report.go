package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// MarshalReport gives the report: the list of rows as indented JSON. No rows are an empty
// list.
func MarshalReport(results []Result) ([]byte, error) {
	if results == nil {
		results = []Result{}
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	if err := e.Encode(results); err != nil {
		return nil, fmt.Errorf("write the report as JSON: %w", err)
	}
	return b.Bytes(), nil
}

// WriteReport writes the report to a file, whose folder it makes if need be. A crash on the way
// leaves the old report, and beside it a new one with another name, which nobody reads and
// `make clean` removes.
func WriteReport(file string, results []Result) (err error) {
	raw, err := MarshalReport(results)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(file), ".report-*")
	if err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("write the report: %w", errors.Join(err, os.Remove(f.Name())))
		}
	}()
	_, err = f.Write(raw)
	if err := errors.Join(err, f.Chmod(0o644), f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), file)
}
