package flash

import (
	"fmt"
	"io"
)

// NewMemory gives an empty image that lives in this process and ends with it:
// for load generation, where no device outlives its run.
func NewMemory() *Image {
	return &Image{storage: &memory{bytes: header()}}
}

// memory grows as it is written, up to an image's size.
type memory struct{ bytes []byte }

func (m *memory) ReadAt(b []byte, offset int64) (int, error) {
	if offset >= int64(len(m.bytes)) {
		return 0, io.EOF
	}
	n := copy(b, m.bytes[offset:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (m *memory) WriteAt(b []byte, offset int64) (int, error) {
	end := offset + int64(len(b))
	if offset < 0 || end > size {
		return 0, fmt.Errorf("offset %d with %d bytes lies outside the image", offset, len(b))
	}
	if end > int64(len(m.bytes)) {
		m.bytes = append(m.bytes, make([]byte, end-int64(len(m.bytes)))...)
	}
	return copy(m.bytes[offset:], b), nil
}

func (m *memory) Sync() error  { return nil }
func (m *memory) Close() error { return nil }
