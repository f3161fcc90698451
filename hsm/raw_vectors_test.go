package hsm_test

import (
	"errors"
	"runtime"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
)

// raw is a token asked without this package in between, in the process's own instance of the module: for published
// vectors whose keys are of a size or use that no kind of ours has. Its keys are session objects that may be read.
type raw struct {
	t       testing.TB
	ctx     *pkcs11.Ctx
	session pkcs11.SessionHandle
}

func newRaw(t testing.TB) *raw {
	t.Helper()
	c := fresh(t)
	open(t, c, hsm.Options{}) // logs the process in, so that a session of its is, too
	r := &raw{t: t, ctx: pkcs11.New(modulePath)}
	if r.ctx == nil {
		t.Fatalf("%s is no PKCS#11 module", modulePath)
	}
	slots, err := r.ctx.GetSlotList(true)
	r.must(err)
	for _, s := range slots {
		if info, err := r.ctx.GetTokenInfo(s); err == nil && info.Label == c.Token.Label {
			r.session, err = r.ctx.OpenSession(s, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			r.must(err)
			t.Cleanup(func() {
				if err := r.ctx.CloseSession(r.session); err != nil {
					t.Error(err)
				}
			})
			return r
		}
	}
	t.Fatalf("no slot has token %q", c.Token.Label)
	return nil
}

func (r *raw) must(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatal(err)
	}
}

// readable makes a derived or unwrapped key one whose value can be read back.
func readable(keyType uint, more ...*pkcs11.Attribute) []*pkcs11.Attribute {
	return append([]*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_SECRET_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, keyType),
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false), pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, false), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, true),
	}, more...)
}

// key puts a secret key of any size into the token, which may refuse it.
func (r *raw) key(keyType uint, value []byte) (pkcs11.ObjectHandle, error) {
	t := readable(keyType, pkcs11.NewAttribute(pkcs11.CKA_VALUE, value))
	for _, u := range []uint{pkcs11.CKA_ENCRYPT, pkcs11.CKA_DECRYPT, pkcs11.CKA_SIGN, pkcs11.CKA_VERIFY, pkcs11.CKA_WRAP, pkcs11.CKA_UNWRAP, pkcs11.CKA_DERIVE} {
		t = append(t, pkcs11.NewAttribute(u, true))
	}
	return r.ctx.CreateObject(r.session, t)
}

func (r *raw) destroy(h pkcs11.ObjectHandle) {
	r.t.Helper()
	r.must(r.ctx.DestroyObject(r.session, h))
}

// value reads a key and destroys it.
func (r *raw) value(h pkcs11.ObjectHandle, err error) ([]byte, error) {
	if err != nil {
		return nil, err
	}
	a, err := r.ctx.GetAttributeValue(r.session, h, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
	if e := r.ctx.DestroyObject(r.session, h); err == nil {
		err = e
	}
	if err != nil {
		return nil, err
	}
	return a[0].Value, nil
}

func (r *raw) mac(mechanism uint, key pkcs11.ObjectHandle, msg []byte) ([]byte, error) {
	if err := r.ctx.SignInit(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, key); err != nil {
		return nil, err
	}
	return r.ctx.Sign(r.session, msg)
}

func (r *raw) verify(mechanism uint, key pkcs11.ObjectHandle, msg, mac []byte) error {
	if err := r.ctx.VerifyInit(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, key); err != nil {
		return err
	}
	return r.ctx.Verify(r.session, msg, mac)
}

func (r *raw) encryptGCM(key pkcs11.ObjectHandle, nonce, aad, plaintext []byte) ([]byte, error) {
	p := pkcs11.NewGCMParams(nonce, aad, hsm.TagSize*8)
	defer p.Free()
	if err := r.ctx.EncryptInit(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, key); err != nil {
		return nil, err
	}
	return r.ctx.Encrypt(r.session, plaintext)
}

func (r *raw) decryptGCM(key pkcs11.ObjectHandle, nonce, aad, ciphertext []byte) ([]byte, error) {
	p := pkcs11.NewGCMParams(nonce, aad, hsm.TagSize*8)
	defer p.Free()
	if err := r.ctx.DecryptInit(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, key); err != nil {
		return nil, err
	}
	return r.ctx.Decrypt(r.session, ciphertext)
}

func (r *raw) wrap(kek, key pkcs11.ObjectHandle) ([]byte, error) {
	return r.ctx.WrapKey(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}, kek, key)
}

// unwrap gives the bytes inside a wrapped secret key.
func (r *raw) unwrap(kek pkcs11.ObjectHandle, blob []byte) ([]byte, error) {
	if len(blob) == 0 {
		return nil, errors.New("nothing to unwrap") // miekg takes the first byte's address
	}
	return r.value(r.ctx.UnwrapKey(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}, kek, blob, readable(pkcs11.CKK_GENERIC_SECRET)))
}

// encryptData gives the bytes of the key that CKM_AES_CBC_ENCRYPT_DATA derives: the ciphertext of data.
func (r *raw) encryptData(key pkcs11.ObjectHandle, iv, data []byte) ([]byte, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	mechanism, parameter := hsm.CBCParameter(&pin, data)
	copy(parameter, iv) // ours is zero
	return r.value(r.ctx.DeriveKey(r.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, parameter)}, key,
		readable(pkcs11.CKK_GENERIC_SECRET, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, len(data)))))
}

// p256 is the DER of the curve's object identifier.
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

func (r *raw) private(scalar []byte) (pkcs11.ObjectHandle, error) {
	return r.ctx.CreateObject(r.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PRIVATE_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256), pkcs11.NewAttribute(pkcs11.CKA_VALUE, scalar),
		pkcs11.NewAttribute(pkcs11.CKA_SIGN, true), pkcs11.NewAttribute(pkcs11.CKA_DERIVE, true),
	})
}

func (r *raw) public(point []byte) (pkcs11.ObjectHandle, error) {
	return r.ctx.CreateObject(r.session, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_PUBLIC_KEY), pkcs11.NewAttribute(pkcs11.CKA_KEY_TYPE, pkcs11.CKK_EC), pkcs11.NewAttribute(pkcs11.CKA_TOKEN, false),
		pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, p256), pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, append([]byte{0x04, byte(len(point))}, point...)),
		pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
	})
}

// agree gives the x coordinate that the token computes.
func (r *raw) agree(private pkcs11.ObjectHandle, point []byte) ([]byte, error) {
	m := pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, point))
	return r.value(r.ctx.DeriveKey(r.session, []*pkcs11.Mechanism{m}, private, readable(pkcs11.CKK_GENERIC_SECRET, pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32))))
}
