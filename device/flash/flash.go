// Package flash is the ordinary, fragile memory of a personal device: an image
// that holds its identity (certificate and package, encrypted under the chip's
// keys) and its software modules. It keeps no secret and no promise but one: a
// reader gets the last content that was written whole, or learns that there is
// none.
//
//	0        header        magic, version, geometry
//	4 KiB    slot A    \   identity area: two slots, the newest whole one counts
//	76 KiB   slot B    /
//	148 KiB  modules       software modules of step 2
//
// Each slot begins with a magic word, a sequence number, a length and SHA-256
// over those and the content. A write goes to the slot that does not count and
// ends with fsync, so a crash at any byte of it leaves the previous content in
// the other slot. Erasing goes the other way round, the slot that counts last,
// so that a crash there never brings back content that had been replaced.
//
// An erased byte reads as zero. (Real NOR flash reads as 0xff; zero keeps the
// image a sparse file.) Whoever can write the image can destroy its content or
// put older content back: the device finds that by the generation floor in its
// chip, not here.
//
// An Image belongs to one process: its file is locked while it is open. Its
// methods may be called from several goroutines.
package flash

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
)

// Sizes of the areas, in bytes.
const (
	headerSize = 4 << 10
	slotSize   = 72 << 10
	moduleSize = 1 << 20
	size       = headerSize + 2*slotSize + moduleSize

	recordHead = 64 // of a slot and of the module area: see encodeRecord

	// MaxIdentity is the longest content of the identity area, in bytes: a
	// package of 64 KiB and its certificate.
	MaxIdentity = slotSize - recordHead
	// MaxModules is the longest content of the module area, in bytes.
	MaxModules = moduleSize - recordHead
)

// Errors of reading. A caller tells them apart with errors.Is.
var (
	// ErrEmpty says that the area was never written, or was erased.
	ErrEmpty = errors.New("flash is empty")
	// ErrTorn says that the area holds something, but nothing whole: a first
	// write or an erasure was cut off, or the memory decayed. Writing again
	// or erasing mends it.
	ErrTorn = errors.New("flash holds no whole content: a write was cut off, or the memory decayed")
	// ErrImage says that the file is no flash image.
	ErrImage = errors.New("not a flash image")
	// ErrInUse says that another process has the image open.
	ErrInUse = errors.New("flash image is in use by another process")
)

// Storage is the memory itself. WriteAt need not be atomic in any way; what
// was written is durable once Sync has returned.
type Storage interface {
	io.ReaderAt
	io.WriterAt
	Sync() error
	Close() error
}

// Image is a device's flash.
type Image struct {
	mu      sync.Mutex // guards storage
	storage Storage
}

var imageMagic = [8]byte{'d', 'k', '-', 'f', 'l', 'a', 's', 'h'}

// header gives the first bytes of every image.
func header() []byte {
	b := make([]byte, headerSize)
	copy(b, imageMagic[:])
	binary.BigEndian.PutUint32(b[8:], 1) // version
	binary.BigEndian.PutUint32(b[12:], slotSize)
	binary.BigEndian.PutUint32(b[16:], moduleSize)
	return b[:32]
}

// On takes an image out of storage, which Format has prepared, and owns it
// from then on, also when it is refused.
func On(s Storage) (*Image, error) {
	b := make([]byte, len(header()))
	if _, err := s.ReadAt(b, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("open flash image: %w", err), s.Close())
	}
	if string(b) != string(header()) {
		return nil, errors.Join(fmt.Errorf("open flash image: %w: make one with \"device create\"", ErrImage), s.Close())
	}
	return &Image{storage: s}, nil
}

// Format writes the header of an empty image. A crash here leaves storage that
// On refuses; formatting again mends it.
func Format(s Storage) error {
	if _, err := s.WriteAt(header(), 0); err != nil {
		return fmt.Errorf("format flash image: %w", err)
	}
	if err := s.Sync(); err != nil {
		return fmt.Errorf("format flash image: %w", err)
	}
	return nil
}

// Close gives the image back.
func (f *Image) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.storage.Close()
}

// area is a run of the image that holds one record.
type area struct{ offset, size int64 }

var (
	slots   = [2]area{{headerSize, slotSize}, {headerSize + slotSize, slotSize}}
	modules = area{headerSize + 2*slotSize, moduleSize}
)

var recordMagic = [8]byte{'d', 'k', '-', 'w', 'h', 'o', 'l', 'e'}

// encodeRecord frames content: magic (8), sequence number (8), length (4),
// zeros (12), SHA-256 of all that and the content (32).
func encodeRecord(sequence uint64, content []byte) []byte {
	b := make([]byte, recordHead+len(content))
	copy(b, recordMagic[:])
	binary.BigEndian.PutUint64(b[8:], sequence)
	binary.BigEndian.PutUint32(b[16:], uint32(len(content)))
	copy(b[recordHead:], content)
	copy(b[32:], recordHash(b))
	return b
}

func recordHash(record []byte) []byte {
	h := sha256.New()
	h.Write(record[:32])
	h.Write(record[recordHead:])
	return h.Sum(nil)
}

// decodeRecord reads what encodeRecord wrote, from the beginning of an area.
// Its error is ErrEmpty or ErrTorn.
func decodeRecord(b []byte) (sequence uint64, content []byte, err error) {
	if len(b) < recordHead || string(b[:8]) != string(recordMagic[:]) {
		if allZero(b) {
			return 0, nil, ErrEmpty
		}
		return 0, nil, ErrTorn
	}
	n := binary.BigEndian.Uint32(b[16:])
	if uint64(n) > uint64(len(b)-recordHead) || !allZero(b[20:32]) {
		return 0, nil, ErrTorn
	}
	record := b[:recordHead+int(n)]
	if string(record[32:recordHead]) != string(recordHash(record)) {
		return 0, nil, ErrTorn
	}
	return binary.BigEndian.Uint64(b[8:]), record[recordHead:], nil
}

func allZero(b []byte) bool { return bytes.Count(b, []byte{0}) == len(b) }

// read gives what decodeRecord needs of an area: the record that its first
// bytes announce, or the whole area where they announce none. What lies beyond
// the storage's end reads as zero.
func (f *Image) read(a area) ([]byte, error) {
	head, err := f.readAt(a.offset, recordHead)
	if err != nil {
		return nil, err
	}
	n := a.size
	if string(head[:8]) == string(recordMagic[:]) {
		n = min(n, recordHead+int64(binary.BigEndian.Uint32(head[16:])))
	}
	return f.readAt(a.offset, n)
}

func (f *Image) readAt(offset, n int64) ([]byte, error) {
	b := make([]byte, n)
	if _, err := f.storage.ReadAt(b, offset); err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read flash: %w", err)
	}
	return b, nil
}

// write puts b at the beginning of an area and makes it durable.
func (f *Image) write(a area, b []byte) error {
	if _, err := f.storage.WriteAt(b, a.offset); err != nil {
		return fmt.Errorf("write flash: %w", err)
	}
	if err := f.storage.Sync(); err != nil {
		return fmt.Errorf("write flash: make it durable: %w", err)
	}
	return nil
}
