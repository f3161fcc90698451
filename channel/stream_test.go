package channel

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"pgregory.net/rapid"
)

// pieces gives what it has in pieces of the sizes given, the last of them again and again.
type pieces struct {
	left  []byte
	sizes []int
}

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.left) == 0 {
		return 0, io.EOF
	}
	n := copy(b, p.left[:min(p.sizes[0], len(p.left))])
	if p.left = p.left[n:]; len(p.sizes) > 1 {
		p.sizes = p.sizes[1:]
	}
	return n, nil
}

// TestStream: frames come out as they went in, however the connection cuts them and wherever the reader rests; a
// connection that ends within a frame says so, and a stream at rest holds no room.
func TestStream(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		sizes := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 2*smallAhead), rapid.IntRange(1, maxFrame), rapid.Just(maxFrame)), 1, 12).Draw(t, "frames")
		var sent bytes.Buffer
		ends := map[int]bool{0: true} // where a connection may end
		for i, n := range sizes {
			if err := writeFrame(&sent, bytes.Repeat([]byte{byte(i + 1)}, n)); err != nil {
				t.Fatal(err)
			}
			ends[sent.Len()] = true
		}
		upTo := rapid.OneOf(rapid.Just(sent.Len()), rapid.IntRange(0, sent.Len())).Draw(t, "up to")
		cuts := rapid.SliceOfN(rapid.OneOf(rapid.IntRange(1, 3), rapid.IntRange(1, 2*maxFrame)), 1, 40).Draw(t, "pieces")
		s := newStream(&pieces{sent.Bytes()[:upTo], cuts})
		for i, n := range sizes {
			whole := s.whole()
			body, err := s.frame(maxFrame)
			if err != nil {
				switch want := io.ErrUnexpectedEOF; {
				case whole:
					t.Fatalf("frame %d was there: %v", i, err)
				case ends[upTo] && !errors.Is(err, io.EOF), !ends[upTo] && !errors.Is(err, want):
					t.Fatalf("frame %d of a connection that ended at %d: %v", i, upTo, err)
				}
				break
			}
			if len(body) != n || bytes.Count(body, []byte{byte(i + 1)}) != n {
				t.Fatalf("frame %d: %d bytes, %d were sent", i, len(body), n)
			}
			if rapid.Bool().Draw(t, "rest") {
				s.rest()
				if s.room != nil && s.buffered() <= smallAhead {
					t.Fatal("a stream at rest holds a room")
				}
			}
		}
		if _, err := s.frame(maxFrame); err == nil {
			t.Fatal("a frame that was not sent")
		}
	})
}
