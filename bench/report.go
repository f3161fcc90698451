package bench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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

// maxReport is more than any report has.
const maxReport = 16 << 20

// ReadReport reads a report that WriteReport wrote. One that isn't there has no rows.
func ReadReport(file string) ([]Result, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxReport+1))
	if err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	if len(raw) > maxReport {
		return nil, fmt.Errorf("read the report %q: it has more than %d bytes: move it away", file, maxReport)
	}
	var rows []Result
	if err := json.Unmarshal(raw, &rows); err != nil {
		return nil, fmt.Errorf("read the report %q: %w: move it away", file, err)
	}
	return rows, nil
}

// Merge puts fresh rows in the place of the older ones of the same benchmarks, and of the same
// names, and keeps the rest. The rows are in the order of benchmarks that is given; what isn't
// named there comes last.
func Merge(old, fresh []Result, order []string) []Result {
	benches, names := map[string]bool{}, map[string]bool{}
	for _, r := range fresh {
		benches[r.Bench], names[r.Name] = true, true
	}
	merged := slices.Clone(fresh)
	for _, r := range old {
		if !names[r.Name] && (r.Bench == "" || !benches[r.Bench]) {
			merged = append(merged, r)
		}
	}
	place := func(r Result) int {
		if i := slices.Index(order, r.Bench); i >= 0 {
			return i
		}
		return len(order)
	}
	slices.SortStableFunc(merged, func(a, b Result) int { return place(a) - place(b) })
	return merged
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
