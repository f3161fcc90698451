// Package detcbortest helps tests show that an artefact has one encoding: it
// spoils a valid one the way CBOR allows and a network does, and holds what
// still reads against what it is written as. Tests alone use it.
package detcbortest

import (
	"bytes"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor"
)

// OneEncoding checks that read takes valid and gives it back byte for byte, and
// that of any spoilt form it does the same or refuses. read parses an artefact
// and encodes what it read; a failure to encode is to be reported by it as a
// failure of the test, not as an error.
func OneEncoding(t *rapid.T, name string, valid []byte, read func([]byte) ([]byte, error)) {
	again, err := read(valid)
	if err != nil || !bytes.Equal(again, valid) {
		t.Fatalf("%s: a valid one\n%x\nreads, %v, and is written as\n%x", name, valid, err, again)
	}
	bad := Spoilt(t, name, valid)
	again, err = read(bad)
	if err == nil && !bytes.Equal(again, bad) {
		t.Fatalf("%s: read as well as refused would be right; this\n%x\nreads and is written as\n%x", name, bad, again)
	}
}

// empties are the heads of what has nothing in it: strings, arrays, maps.
var empties = []byte{0x40, 0x60, 0x80, 0xa0}

// Spoilt draws a change of b, which stays as it is: bits flipped, bytes lost,
// added or doubled, and what a lenient reader would not notice: a length or
// number in a longer form, null for an empty string, array or map or the other
// way round, an indefinite length. The outcome may be b's own bytes.
func Spoilt(t *rapid.T, name string, b []byte) []byte {
	out := bytes.Clone(b)
	for range rapid.IntRange(1, 3).Draw(t, name+": changes") {
		if len(out) == 0 {
			return out
		}
		at := rapid.IntRange(0, len(out)-1).Draw(t, name+": at")
		switch rapid.IntRange(0, 8).Draw(t, name+": change") {
		case 0:
			out[at] ^= 1 << rapid.IntRange(0, 7).Draw(t, name+": bit")
		case 1:
			out[at] = rapid.Byte().Draw(t, name+": byte")
		case 2:
			out = append(out[:at], out[at+1:]...)
		case 3:
			out = insert(out, at, rapid.Byte().Draw(t, name+": byte"))
		case 4:
			out = out[:at]
		case 5:
			out = append(out, rapid.SliceOfN(rapid.Byte(), 1, 9).Draw(t, name+": tail")...)
		case 6: // the same head, longer
			if argument := out[at] & 0x1f; argument < 24 {
				out[at] = out[at]&0xe0 | 24
				out = insert(out, at+1, argument)
			}
		case 7: // empty and null
			var places []int
			for i, c := range out {
				if c == 0xf6 || bytes.IndexByte(empties, c) >= 0 {
					places = append(places, i)
				}
			}
			if len(places) == 0 {
				continue
			}
			i := rapid.SampledFrom(places).Draw(t, name+": empty at")
			if out[i] != 0xf6 {
				out[i] = 0xf6
			} else {
				out[i] = rapid.SampledFrom(empties).Draw(t, name+": empty")
			}
		case 8: // indefinite length
			if major := out[at] >> 5; major >= 2 && major <= 5 {
				out[at] |= 0x1f
				out = append(out, 0xff)
			}
		}
	}
	return out
}

func insert(b []byte, at int, c byte) []byte {
	return append(b[:at:at], append([]byte{c}, b[at:]...)...)
}

// Distinct checks that contexts which should never serve each other's purpose
// don't: no two are equal, none begins another, and each opens as an array
// whose label, its first item, is in no other one of another kind. labels maps
// what each is by that label.
func Distinct(t *rapid.T, all map[string][]byte) {
	labels := map[string]string{} // of the wire → whose
	for name, b := range all {
		for other, o := range all {
			if name != other && bytes.HasPrefix(o, b) {
				t.Fatalf("%s %x begins %s %x", name, b, other, o)
			}
		}
		var items []any
		if err := detcbor.Unmarshal(b, &items, len(b)); err != nil || len(items) == 0 {
			t.Fatalf("%s %x is no array: %v", name, b, err)
		}
		label, ok := items[0].(string)
		if !ok {
			t.Fatalf("%s begins with %v, no label", name, items[0])
		}
		if other, twice := labels[label]; twice {
			t.Fatalf("%s and %s share the label %q", name, other, label)
		}
		labels[label] = name
	}
}
