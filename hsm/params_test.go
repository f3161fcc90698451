package hsm_test

import (
	"bytes"
	"encoding/binary"
	"runtime"
	"testing"
	"unsafe"

	"github.com/devicekeys/devicekeys/hsm"
)

// at reads n bytes at an address that a structure holds. The test has it pinned. (Not
// inlined: Go 1.26.8's compiler fails on the copy from a constant-size slice.)
//
//go:noinline
func at(addr uint64, n uint64) []byte {
	p := uintptr(addr)
	return bytes.Clone(unsafe.Slice(*(**byte)(unsafe.Pointer(&p)), n))
}

func words(t *testing.T, b []byte, n int) []uint64 {
	t.Helper()
	if len(b) != 8*n {
		t.Fatalf("%d bytes instead of %d words", len(b), n)
	}
	w := make([]uint64, n)
	for i := range w {
		w[i] = binary.NativeEndian.Uint64(b[8*i:])
	}
	return w
}

func TestCBCParameter(t *testing.T) {
	t.Parallel()
	var pin runtime.Pinner
	defer pin.Unpin()
	data := bytes.Repeat([]byte{0xAB}, 32)
	m, par := hsm.CBCParameter(&pin, data)
	if m != hsm.CBCEncryptData || len(par) != 32 || !bytes.Equal(par[:16], make([]byte, 16)) {
		t.Fatalf("mechanism %#x, parameter %x", m, par)
	}
	w := words(t, par[16:], 2)
	if w[1] != 32 || !bytes.Equal(at(w[0], w[1]), data) {
		t.Error("it doesn't point to the data")
	}
}

// CK_SP800_108_KDF_PARAMS, PKCS#11 v3.0 section 2.42.2, field by field.
func TestCounterKDFParameter(t *testing.T) {
	t.Parallel()
	var pin runtime.Pinner
	defer pin.Unpin()
	fixed := hsm.KDF2Input("dk-kdf", []byte("context"))
	m, par := hsm.CounterParameter(&pin, fixed)
	if m != 0x3AC { // CKM_SP800_108_COUNTER_KDF
		t.Errorf("mechanism %#x", m)
	}
	w := words(t, par, 5)
	const cmac = 0x108A
	if w[0] != cmac || w[1] != 2 || w[3] != 0 || w[4] != 0 {
		t.Fatalf("fields %#x: want CKM_AES_CMAC, two data parameters, no additional keys", w)
	}
	fields := words(t, at(w[2], 2*24), 6)
	if fields[0] != 1 || fields[2] != 16 || fields[3] != 4 || fields[5] != uint64(len(fixed)) {
		t.Fatalf("data parameters %#x: want an iteration variable of 16 bytes, then a byte array", fields)
	}
	counter := words(t, at(fields[1], 16), 2)
	if counter[0] != 0 || counter[1] != 32 {
		t.Errorf("counter format %v: want big-endian, 32 bits", counter)
	}
	if got := at(fields[4], fields[5]); !bytes.Equal(got, fixed) {
		t.Errorf("fixed input %x", got)
	}
	want := append([]byte("dk-kdf\x00context"), 0, 0, 1, 0)
	if !bytes.Equal(fixed, want) {
		t.Errorf("fixed input is %x, want %x", fixed, want)
	}
}

func TestTemplateBytes(t *testing.T) {
	t.Parallel()
	var pin runtime.Pinner
	defer pin.Unpin()
	const sensitive, extractable = 0x103, 0x162
	w := words(t, hsm.TemplateBytes(&pin), 6)
	if w[0] != sensitive || w[2] != 1 || w[3] != extractable || w[5] != 1 {
		t.Fatalf("attributes %#x", w)
	}
	if at(w[1], 1)[0] != 1 || at(w[4], 1)[0] != 0 {
		t.Error("wrong values")
	}
}

// The pinned parameter survives a garbage collection at any moment: many derivations
// while the collector runs without pause all give the same key.
func TestPinnedParameters(t *testing.T) {
	t.Parallel()
	tok := token(t)
	base := imported(t, tok, hsm.Spec{Kind: hsm.ChipKey}, known(6))
	want := softHMAC(softKDF1(t, known(6), []byte("context")), "m")
	done := make(chan struct{})
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-done:
				return
			default:
				runtime.GC()
			}
		}
	}()
	for range 50 {
		k := derive(t, tok, base, "context", hsm.ResidentKey)
		if !bytes.Equal(mac(t, k, "m"), want) {
			t.Error("another key")
		}
		if err := k.Destroy(t.Context()); err != nil {
			t.Error(err)
		}
	}
	close(done)
	<-stopped
}
