package raw

import (
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/miekg/pkcs11"
)

// Sizes of what passes through the token for a device of the plainest profile: a derived key
// and a drawn code of sixteen digits.
const (
	keySize       = 32
	digestSize    = 32
	nonceSize     = 12
	randomBytes   = 56 + 2*nonceSize // code, spare digits and commitment; two nonces
	messageSize   = 128              // of what a device key MACs
	sealedSize    = 64               // of what is sealed
	aadSize       = 80
	gcmTagBits    = 128
	p256PointSize = 65
)

// Device makes the calls of one device; with submit it signs a submission too. Whatever it makes in the token it
// destroys.
func (l *Loop) Device(submit bool) error {
	var made objects
	err := l.device(&made, submit)
	for _, h := range made {
		if e := l.ctx.DestroyObject(l.session, h); e != nil {
			err = errors.Join(err, fmt.Errorf("destroy a session object: %w", e))
		}
		l.count("C_DestroyObject", 1)
	}
	return err
}

// Handshake makes the calls of one handshake of the secure channel at the service: the device key, and one MAC under
// it. It destroys the key.
func (l *Loop) Handshake() (err error) {
	var made objects
	defer func() {
		for _, h := range made {
			l.count("C_DestroyObject", 1)
			err = errors.Join(err, l.ctx.DestroyObject(l.session, h))
		}
	}()
	key, err := l.deriveKDF1(&made, l.purpose, deviceKeyTemplate())
	if err != nil {
		return err
	}
	_, err = l.sign(pkcs11.CKM_SHA256_HMAC, key, make([]byte, messageSize))
	return err
}

// objects are session objects to be destroyed.
type objects []pkcs11.ObjectHandle

func (l *Loop) device(made *objects, submit bool) error {
	// Begin: the drawn secrets, sealed for the records; the device key and its check value; the certificate.
	random, err := l.random(randomBytes)
	if err != nil {
		return err
	}
	if err := l.encrypt(l.seal, random[:nonceSize]); err != nil {
		return err
	}
	key, err := l.deriveKDF1(made, l.purpose, deviceKeyTemplate())
	if err != nil {
		return err
	}
	mac, err := l.sign(pkcs11.CKM_SHA256_HMAC, key, make([]byte, messageSize))
	if err != nil {
		return err
	}
	if _, err := l.sign(pkcs11.CKM_ECDSA, l.identity, mac); err != nil {
		return err
	}
	if err := l.transfer(made, key, random[nonceSize:2*nonceSize]); err != nil {
		return err
	}
	// Confirm, Restored, Locked: what the device says. Publish: what it is told, and the submission.
	for range 3 {
		if err := l.verify(key, make([]byte, messageSize), mac); err != nil {
			return err
		}
	}
	if submit {
		if _, err := l.sign(pkcs11.CKM_ECDSA, l.submission, mac); err != nil {
			return err
		}
	}
	_, err = l.sign(pkcs11.CKM_SHA256_HMAC, key, make([]byte, messageSize))
	return err
}

// transfer brings the device key under a key that is agreed with the device.
func (l *Loop) transfer(made *objects, key pkcs11.ObjectHandle, nonce []byte) error {
	publicHalf, privateHalf := pairTemplate()
	public, private, err := l.ctx.GenerateKeyPair(l.session, mechanism(pkcs11.CKM_EC_KEY_PAIR_GEN), publicHalf, privateHalf)
	l.count("C_GenerateKeyPair", 1)
	if err != nil {
		return fmt.Errorf("generate a pair: %w", err)
	}
	*made = append(*made, public, private)
	point, err := l.point(public)
	if err != nil {
		return err
	}
	// The peer is a device in the SPP's case; here the pair agrees with itself, which costs the same.
	params := pkcs11.NewECDH1DeriveParams(pkcs11.CKD_NULL, nil, point)
	agreed, err := l.derive(made, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_ECDH1_DERIVE, params)}, private, agreedTemplate())
	if err != nil {
		return err
	}
	var pin runtime.Pinner
	defer pin.Unpin()
	kek, err := l.deriveKDF1(made, agreed, wrapTemplate(&pin))
	if err != nil {
		return err
	}
	seal, err := l.deriveKDF1(made, agreed, sealTemplate())
	if err != nil {
		return err
	}
	blob, err := l.ctx.WrapKey(l.session, mechanism(pkcs11.CKM_AES_KEY_WRAP), kek, key)
	l.count("C_WrapKey", 2)
	if err != nil {
		return fmt.Errorf("wrap: %w", err)
	}
	if len(blob) != keySize+8 {
		return fmt.Errorf("wrap: the token gave %d bytes, RFC 3394 gives %d", len(blob), keySize+8)
	}
	return l.encrypt(seal, nonce)
}

func mechanism(m uint) []*pkcs11.Mechanism {
	return []*pkcs11.Mechanism{pkcs11.NewMechanism(m, nil)}
}

func (l *Loop) random(n int) ([]byte, error) {
	b, err := l.ctx.GenerateRandom(l.session, n)
	l.count("C_GenerateRandom", 1)
	if err != nil {
		return nil, fmt.Errorf("draw random bytes: %w", err)
	}
	return b, nil
}

func (l *Loop) encrypt(key pkcs11.ObjectHandle, nonce []byte) error {
	p := pkcs11.NewGCMParams(nonce, make([]byte, aadSize), gcmTagBits)
	defer p.Free()
	l.count("C_EncryptInit", 1)
	if err := l.ctx.EncryptInit(l.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, p)}, key); err != nil {
		return fmt.Errorf("begin to encrypt: %w", err)
	}
	l.count("C_Encrypt", 2)
	if _, err := l.ctx.Encrypt(l.session, make([]byte, sealedSize)); err != nil {
		return fmt.Errorf("encrypt: %w", err)
	}
	return nil
}

func (l *Loop) sign(with uint, key pkcs11.ObjectHandle, message []byte) ([]byte, error) {
	l.count("C_SignInit", 1)
	if err := l.ctx.SignInit(l.session, mechanism(with), key); err != nil {
		return nil, fmt.Errorf("begin to sign: %w", err)
	}
	l.count("C_Sign", 2)
	b, err := l.ctx.Sign(l.session, message)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	return b, nil
}

func (l *Loop) verify(key pkcs11.ObjectHandle, message, mac []byte) error {
	l.count("C_VerifyInit", 1)
	if err := l.ctx.VerifyInit(l.session, mechanism(pkcs11.CKM_SHA256_HMAC), key); err != nil {
		return fmt.Errorf("begin to verify: %w", err)
	}
	l.count("C_Verify", 1)
	if err := l.ctx.Verify(l.session, message, mac); err != nil {
		return fmt.Errorf("verify: %w", err)
	}
	return nil
}

// deriveKDF1 derives by AES-256-CBC with a zero IV over 32 bytes.
func (l *Loop) deriveKDF1(made *objects, from pkcs11.ObjectHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	var pin runtime.Pinner
	defer pin.Unpin()
	data := make([]byte, digestSize)
	// CK_AES_CBC_ENCRYPT_DATA_PARAMS: IV, address and length of the data.
	params := make([]byte, 16, 32)
	params = binary.NativeEndian.AppendUint64(params, address(&pin, data))
	params = binary.NativeEndian.AppendUint64(params, digestSize)
	return l.derive(made, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_CBC_ENCRYPT_DATA, params)}, from, template)
}

func (l *Loop) derive(made *objects, m []*pkcs11.Mechanism, from pkcs11.ObjectHandle, template []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	l.count("C_DeriveKey", 1)
	h, err := l.ctx.DeriveKey(l.session, m, from, template)
	if err != nil {
		return 0, fmt.Errorf("derive: %w", err)
	}
	*made = append(*made, h)
	return h, nil
}

// point reads the public half's point.
func (l *Loop) point(public pkcs11.ObjectHandle) ([]byte, error) {
	l.count("C_GetAttributeValue", 2)
	v, err := l.ctx.GetAttributeValue(l.session, public, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_EC_POINT, nil)})
	if err != nil {
		return nil, fmt.Errorf("read a point: %w", err)
	}
	var point []byte
	if _, err := asn1.Unmarshal(v[0].Value, &point); err != nil {
		return nil, fmt.Errorf("read a point: %w", err)
	}
	if len(point) != p256PointSize {
		return nil, fmt.Errorf("read a point: it has %d bytes, %d are expected", len(point), p256PointSize)
	}
	return point, nil
}

// address gives where a slice begins, pinned.
func address(pin *runtime.Pinner, b []byte) uint64 {
	pin.Pin(&b[0])
	return uint64(uintptr(unsafe.Pointer(&b[0])))
}
