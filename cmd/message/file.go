package main

import (
	"errors"
	"fmt"
	"io"
	"os"
)

// maxFile bounds what is read of certificates and keys, in bytes.
const maxFile = 256 << 10

// readFile reads a file of at most limit bytes.
func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%q is longer than %d bytes", path, limit)
	}
	return b, nil
}

// create writes a new file. A crash leaves a part of it, which the next run reports as existing.
func create(path string, content []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("write the message: %w", err)
	}
	if _, err := f.Write(content); err != nil {
		return errors.Join(fmt.Errorf("write the message: %w", err), f.Close())
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("write the message: %w", err)
	}
	return nil
}
