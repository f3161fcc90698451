package channel

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

const (
	// smallAhead is what a channel has for reading ahead while it waits: most requests fit, and a service
	// has thousands that wait.
	smallAhead = 512
	// batch is how much is read, or sealed and written, at once while a long message is under way.
	batch = 2 * (headSize + maxFrame)
)

// rooms are lent to channels while a long message is under way.
var rooms = sync.Pool{New: func() any { b := make([]byte, batch); return &b }}

// stream reads a connection ahead: into little of its own, and into a room that it borrows once a frame
// doesn't fit that. It serves one goroutine at a time.
type stream struct {
	from  io.Reader
	own   [smallAhead]byte
	room  *[]byte // borrowed, or nil
	at, n int     // what was read and not taken yet: buffer()[at:n]
}

func newStream(from io.Reader) *stream { return &stream{from: from} }

func (s *stream) buffer() []byte {
	if s.room != nil {
		return *s.room
	}
	return s.own[:]
}

// buffered tells how many bytes can be taken without waiting.
func (s *stream) buffered() int { return s.n - s.at }

// need reads until so many bytes are there, at most a batch. io.EOF means that there is none at all.
func (s *stream) need(bytes int) error {
	for s.buffered() < bytes {
		b := s.buffer()
		if s.at+bytes > len(b) || s.at == s.n {
			if bytes > len(b) {
				s.room = rooms.Get().(*[]byte)
			}
			s.n = copy(s.buffer(), b[s.at:s.n])
			s.at, b = 0, s.buffer()
		}
		n, err := s.from.Read(b[s.n:])
		if s.n += n; n == 0 && err != nil {
			if s.buffered() > 0 {
				return cut(err)
			}
			return err
		}
	}
	return nil
}

// rest gives the room back where what is left fits without.
func (s *stream) rest() {
	if s.room == nil || s.buffered() > len(s.own) {
		return
	}
	s.n = copy(s.own[:], (*s.room)[s.at:s.n])
	s.at = 0
	rooms.Put(s.room)
	s.room = nil
}

// whole tells whether a frame can be taken without waiting.
func (s *stream) whole() bool {
	return s.buffered() >= headSize && s.buffered()-headSize >= int(binary.BigEndian.Uint16(s.buffer()[s.at:]))
}

// frame gives a frame of 1 to most bytes, which stays until the next call. io.EOF means that the connection
// ended before it began.
func (s *stream) frame(most int) ([]byte, error) {
	if err := s.need(headSize); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(s.buffer()[s.at:]))
	if n == 0 || n > most {
		return nil, fmt.Errorf("%w: a frame of %d bytes, 1 to %d are taken", ErrForm, n, most)
	}
	if err := s.need(headSize + n); err != nil {
		return nil, err
	}
	body := s.buffer()[s.at+headSize:][:n]
	s.at += headSize + n
	return body, nil
}

// take gives a frame of the handshake, which stays.
func (s *stream) take(most int) ([]byte, error) {
	body, err := s.frame(most)
	body = bytes.Clone(body)
	s.rest()
	return body, err
}

// Read reads what was read ahead, and the connection after that.
func (s *stream) Read(p []byte) (int, error) {
	if s.buffered() == 0 {
		return s.from.Read(p)
	}
	n := copy(p, s.buffer()[s.at:s.n])
	s.at += n
	return n, nil
}

func cut(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
