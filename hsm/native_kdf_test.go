package hsm_test

import (
	"bytes"
	"os"
	"runtime"
	"testing"
	"unsafe"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/untested"
)

// softokens are where distributions put NSS's module.
var softokens = []string{
	"/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so",
	"/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so", "/usr/lib64/libsoftokn3.so", "/usr/lib/libsoftokn3.so",
}

// SoftHSM has no CKM_SP800_108_COUNTER_KDF. NSS has, so where it is installed the
// native parameter is tried on it: its key must be the one that C_Sign and the block
// function give, since the two ways are one KDF.
func TestNativeKDF2OnNSS(t *testing.T) {
	t.Parallel()
	path := ""
	for _, p := range softokens {
		if _, err := os.Stat(p); err == nil {
			path = p
		}
	}
	if path == "" {
		untested.Skip(t, "KDF 2's native parameter, but byte by byte: NSS is not installed, package libnss3")
	}
	ctx := pkcs11.New(path)
	if ctx == nil {
		untested.Skip(t, "KDF 2's native parameter, but byte by byte: NSS's module %s can't be loaded", path)
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	args := []byte("configdir='' certPrefix='' keyPrefix='' secmod='' flags=noCertDB,noModDB\x00")
	pin.Pin(&args[0])
	if err := ctx.Initialize(pkcs11.InitializeWithReserved(unsafe.Pointer(&args[0]))); err != nil {
		untested.Skip(t, "KDF 2's native parameter, but byte by byte: NSS doesn't start without a database: %v", err)
	}
	defer ctx.Finalize()
	slots, err := ctx.GetSlotList(true)
	if err != nil || len(slots) == 0 {
		t.Fatalf("no slot: %v", err)
	}
	s, err := ctx.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	defer ctx.CloseSession(s)
	base, err := ctx.CreateObject(s, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
		pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_AES),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), // NSS wants it for this PRF
		pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
		pkcs11.NewAttribute(pkcs11.CKA_VALUE, sequence()),
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, context := range []string{"x", "a longer context, of more than one block of the cipher"} {
		fixed := hsm.KDF2Input("dk-kdf", []byte(context))
		m, par := hsm.CounterParameter(&pin, fixed)
		k, err := ctx.DeriveKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(m, par)}, base, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY),
			pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_GENERIC_SECRET),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false),
			pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
		})
		if err != nil {
			t.Fatal(err)
		}
		v, err := ctx.GetAttributeValue(s, k, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
		if err != nil {
			t.Fatal(err)
		}
		want, err := hsm.KDF2Blocks(func(b []byte) ([]byte, error) { return softCMAC(t, sequence(), b), nil }, fixed)
		if err != nil || !bytes.Equal(v[0].Value, want) {
			t.Errorf("NSS derives %x, C_Sign's way gives %x, %v", v[0].Value, want, err)
		}
	}
}
