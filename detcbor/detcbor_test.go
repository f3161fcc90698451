package detcbor_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor"
)

type sample struct {
	_    struct{} `cbor:",toarray"`
	N    uint
	Text string
	Data []byte
	Map  map[int]string
}

// Each row is an encoding that a lenient decoder would take.
func TestUnmarshalRefuses(t *testing.T) {
	t.Parallel()
	good := "8401616141ffa1016162"
	for _, row := range []struct{ name, hex string }{
		{"truncated", "8401616141ffa10161"},
		{"trailing byte", good + "00"},
		{"integer longer than needed", "841801616141ffa1016162"},
		{"length longer than needed", "840178016141ffa1016162"},
		{"indefinite array", "9f01616141ffa1016162ff"},
		{"indefinite string", "84017f6161ff41ffa1016162"},
		{"duplicate key", "8401616141ffa20161620161ff"},
		{"keys out of order", "8401616141ffa20261620161" + "63"},
		{"a tag", "d9d9f7" + good},
		{"a float for an integer", "84f93c00616141ffa1016162"},
		{"one element too many", "8501616141ffa101616200"},
		{"one element too few", "8301616141ff"},
		{"invalid UTF-8", "840161ff41ffa1016162"},
		{"null for bytes", "84016161f6a1016162"},
		{"empty", ""},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			b, err := hex.DecodeString(row.hex)
			if err != nil {
				t.Fatal(err)
			}
			var s sample
			if row.name == "null for bytes" {
				// null decodes to an absent byte string, which encodes as null
				// again: the value's owner refuses by its length.
				if err := detcbor.Unmarshal(b, &s, 100); err == nil && s.Data != nil {
					t.Fatal("null was read as bytes")
				}
				return
			}
			if err := detcbor.Unmarshal(b, &s, 100); err == nil {
				t.Fatalf("accepted as %+v", s)
			}
		})
	}
	var s sample
	b, _ := hex.DecodeString(good)
	if err := detcbor.Unmarshal(b, &s, len(b)); err != nil {
		t.Fatalf("the row that all others spoil: %v", err)
	}
	if err := detcbor.Unmarshal(b, &s, len(b)-1); !errors.Is(err, detcbor.ErrTooLarge) {
		t.Fatalf("over the limit: %v", err)
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		in := sample{
			N:    rapid.Uint().Draw(t, "n"),
			Text: rapid.String().Draw(t, "text"),
			Data: rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "data"),
			Map:  rapid.MapOfN(rapid.Int(), rapid.String(), 0, 20).Draw(t, "map"),
		}
		b := detcbor.Must(in)
		var out sample
		if err := detcbor.Unmarshal(b, &out, len(b)); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(detcbor.Must(out), b) {
			t.Fatal("two encodings of one value")
		}
	})
}

func TestHead(t *testing.T) {
	t.Parallel()
	for _, n := range []uint64{0, 23, 24, 255, 256, 65535, 65536, 1<<32 - 1, 1 << 32} {
		if got, want := detcbor.Head(0, n), detcbor.Must(n); !bytes.Equal(got, want) {
			t.Errorf("head of %d is %x, the encoder says %x", n, got, want)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, s := range []string{"8401616141ffa1016162", "84001bffffffffffffffff6041ffa0", "9f01ff"} {
		b, _ := hex.DecodeString(s)
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var s sample
		if detcbor.Unmarshal(b, &s, 1<<12) != nil {
			return
		}
		if !bytes.Equal(detcbor.Must(s), b) {
			t.Fatalf("%x was accepted and is not the encoding of its value", b)
		}
	})
}
