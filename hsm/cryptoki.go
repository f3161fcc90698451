package hsm

import (
	"sync/atomic"

	"github.com/miekg/pkcs11"
)

// cryptoki is the module's C API with every call counted, errors translated to [Code].
// CKF_OS_LOCKING_OK makes the module safe for threads, but for what objects says, and a
// session is used by one goroutine at a time because the pool hands it to one.
//
// The counts are what the module sees. miekg asks for a size first and for the bytes
// then, so what gives an answer of variable length counts two for each use; a failed one
// counts two although the first may have been the last. What is used for every device
// goes past that (direct).
type cryptoki struct {
	ctx    *pkcs11.Ctx
	direct direct
	// objects keeps searches and changes of a token's objects apart.
	objects objectLocks
	calls   [functions]atomic.Uint64
	errors  [classes]atomic.Uint64
	// hostDerivations counts keys that KDF 2 derived through host memory.
	hostDerivations atomic.Uint64
}

type function int

const (
	fnInitialize function = iota
	fnFinalize
	fnGetSlotList
	fnGetTokenInfo
	fnGetMechanismList
	fnInitToken
	fnInitPIN
	fnOpenSession
	fnCloseSession
	fnCloseAllSessions
	fnGetSessionInfo
	fnLogin
	fnLogout
	fnCreateObject
	fnCopyObject
	fnDestroyObject
	fnGetAttributeValue
	fnSetAttributeValue
	fnFindObjectsInit
	fnFindObjects
	fnFindObjectsFinal
	fnEncryptInit
	fnEncrypt
	fnDecryptInit
	fnDecrypt
	fnSignInit
	fnSign
	fnVerifyInit
	fnVerify
	fnGenerateKey
	fnGenerateKeyPair
	fnWrapKey
	fnUnwrapKey
	fnDeriveKey
	fnGenerateRandom
	functions
)

var functionNames = [functions]string{
	"C_Initialize", "C_Finalize", "C_GetSlotList", "C_GetTokenInfo", "C_GetMechanismList",
	"C_InitToken", "C_InitPIN", "C_OpenSession", "C_CloseSession", "C_CloseAllSessions", "C_GetSessionInfo", "C_Login", "C_Logout",
	"C_CreateObject", "C_CopyObject", "C_DestroyObject", "C_GetAttributeValue", "C_SetAttributeValue",
	"C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal",
	"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt", "C_SignInit", "C_Sign",
	"C_VerifyInit", "C_Verify", "C_GenerateKey", "C_GenerateKeyPair", "C_WrapKey", "C_UnwrapKey",
	"C_DeriveKey", "C_GenerateRandom",
}

// count records n calls of f and translates their error.
func (c *cryptoki) count(f function, n uint64, err error) error {
	c.calls[f].Add(n)
	if err == nil {
		return nil
	}
	err = translated(err)
	c.errors[Classify(err)].Add(1)
	return err
}

func (c *cryptoki) initialize() error {
	// CKF_OS_LOCKING_OK always: without it SoftHSM crashes under threads.
	return c.count(fnInitialize, 1, c.ctx.Initialize(pkcs11.InitializeWithFlags(pkcs11.CKF_OS_LOCKING_OK)))
}

func (c *cryptoki) finalize() error {
	c.objects.finalized()
	return c.count(fnFinalize, 1, c.ctx.Finalize())
}

func (c *cryptoki) slotList() ([]uint, error) {
	l, err := c.ctx.GetSlotList(true)
	return l, c.count(fnGetSlotList, 2, err)
}

func (c *cryptoki) tokenInfo(slot uint) (pkcs11.TokenInfo, error) {
	i, err := c.ctx.GetTokenInfo(slot)
	return i, c.count(fnGetTokenInfo, 1, err)
}

func (c *cryptoki) mechanisms(slot uint) (map[uint]bool, error) {
	l, err := c.ctx.GetMechanismList(slot)
	if err = c.count(fnGetMechanismList, 2, err); err != nil {
		return nil, err
	}
	set := make(map[uint]bool, len(l))
	for _, m := range l {
		set[m.Mechanism] = true
	}
	return set, nil
}

func (c *cryptoki) initToken(slot uint, soPIN []byte, label string) error {
	return c.count(fnInitToken, 1, c.ctx.InitToken(slot, string(soPIN), label))
}

func (c *cryptoki) initPIN(s pkcs11.SessionHandle, pin []byte) error {
	return c.count(fnInitPIN, 1, c.ctx.InitPIN(s, string(pin)))
}

func (c *cryptoki) openSession(slot uint) (pkcs11.SessionHandle, error) {
	s, err := c.ctx.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err == nil {
		c.objects.opened(s, slot)
	}
	return s, c.count(fnOpenSession, 1, err)
}

func (c *cryptoki) closeSession(s pkcs11.SessionHandle) error {
	c.objects.closed(s)
	return c.count(fnCloseSession, 1, c.ctx.CloseSession(s))
}

func (c *cryptoki) closeAllSessions(slot uint) error {
	return c.count(fnCloseAllSessions, 1, c.ctx.CloseAllSessions(slot))
}

// loggedIn makes sure that a session is there and the user is logged in: in one that
// isn't, private objects look as if they didn't exist.
func (c *cryptoki) loggedIn(s pkcs11.SessionHandle) error {
	i, err := c.ctx.GetSessionInfo(s)
	if err = c.count(fnGetSessionInfo, 1, err); err != nil {
		return err
	}
	if i.State != pkcs11.CKS_RW_USER_FUNCTIONS {
		return Code(pkcs11.CKR_USER_NOT_LOGGED_IN)
	}
	return nil
}

func (c *cryptoki) login(s pkcs11.SessionHandle, user uint, pin []byte) error {
	return c.count(fnLogin, 1, c.ctx.Login(s, user, string(pin)))
}

func (c *cryptoki) logout(s pkcs11.SessionHandle) error {
	return c.count(fnLogout, 1, c.ctx.Logout(s))
}

func (c *cryptoki) createObject(s pkcs11.SessionHandle, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer c.objects.change(s, lasting(t))()
	h, err := c.ctx.CreateObject(s, t)
	return h, c.count(fnCreateObject, 1, err)
}

func (c *cryptoki) copyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer c.objects.change(s, lasting(t))()
	h, err := c.ctx.CopyObject(s, o, t)
	return h, c.count(fnCopyObject, 1, err)
}

// destroyObject destroys an object; lasting: it is the token's and not a session's.
func (c *cryptoki) destroyObject(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, lasting bool) error {
	defer c.objects.change(s, lasting)()
	return c.count(fnDestroyObject, 1, c.ctx.DestroyObject(s, o))
}

// attributes reads the values of the types asked, all or none.
func (c *cryptoki) attributes(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, types ...uint) ([][]byte, error) {
	t := make([]*pkcs11.Attribute, len(types))
	for i, typ := range types {
		t[i] = &pkcs11.Attribute{Type: typ}
	}
	got, err := c.ctx.GetAttributeValue(s, o, t)
	if err = c.count(fnGetAttributeValue, 2, err); err != nil {
		return nil, err
	}
	values := make([][]byte, len(got))
	for i, a := range got {
		values[i] = a.Value
	}
	return values, nil
}

// inner reads the values of an attribute array of known types.
func (c *cryptoki) inner(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, typ uint, types []uint) ([]*pkcs11.Attribute, error) {
	all, err := c.direct.inner(s, o, typ, types)
	return all, c.count(fnGetAttributeValue, 1, err)
}

// point reads a public key's CKA_EC_POINT.
func (c *cryptoki) point(s pkcs11.SessionHandle, public pkcs11.ObjectHandle) ([]byte, error) {
	a := c.direct.attribute(s, public, pkcs11.CKA_EC_POINT, pointRoom)
	return a.bytes, c.count(fnGetAttributeValue, 1, a.err)
}

func (c *cryptoki) setAttributes(s pkcs11.SessionHandle, o pkcs11.ObjectHandle, t []*pkcs11.Attribute) error {
	return c.count(fnSetAttributeValue, 1, c.ctx.SetAttributeValue(s, o, t))
}

// room for answers whose size is known, in bytes: a signature or MAC of any mechanism in
// use, a wrapped secret or private key, an encoded point.
const (
	signatureRoom = 64
	wrappedRoom   = maxWrappedPair
	pointRoom     = 128
)

// begun counts an operation of two calls, and tells whether miekg has to take its answer:
// it had no room, and is open still.
func (c *cryptoki) begun(initialise, operate function, a answer) (open bool, err error) {
	if !a.begun {
		return false, c.count(initialise, 1, a.err)
	}
	c.calls[initialise].Add(1)
	if a.tooSmall() {
		c.calls[operate].Add(1)
		return true, nil
	}
	return false, c.count(operate, 1, a.err)
}

// encrypt encrypts with AES-GCM and a tag of 16 bytes.
func (c *cryptoki) encrypt(s pkcs11.SessionHandle, k pkcs11.ObjectHandle, nonce, aad, plaintext []byte) ([]byte, error) {
	a := c.direct.seal(s, k, nonce, aad, plaintext)
	open, err := c.begun(fnEncryptInit, fnEncrypt, a)
	if open {
		a.bytes, err = c.ctx.Encrypt(s, plaintext)
		err = c.count(fnEncrypt, 2, err)
	}
	return a.bytes, err
}

// decrypt decrypts what encrypt made.
func (c *cryptoki) decrypt(s pkcs11.SessionHandle, k pkcs11.ObjectHandle, nonce, aad, ciphertext []byte) ([]byte, error) {
	a := c.direct.open(s, k, nonce, aad, ciphertext)
	open, err := c.begun(fnDecryptInit, fnDecrypt, a)
	if open {
		a.bytes, err = c.ctx.Decrypt(s, ciphertext)
		err = c.count(fnDecrypt, 2, err)
	}
	return a.bytes, err
}

func (c *cryptoki) sign(s pkcs11.SessionHandle, mechanism uint, k pkcs11.ObjectHandle, msg []byte) ([]byte, error) {
	return c.signInto(s, mechanism, k, msg, signatureRoom)
}

func (c *cryptoki) signInto(s pkcs11.SessionHandle, mechanism uint, k pkcs11.ObjectHandle, msg []byte, room int) ([]byte, error) {
	a := c.direct.sign(s, mechanism, k, msg, room)
	open, err := c.begun(fnSignInit, fnSign, a)
	if open {
		a.bytes, err = c.ctx.Sign(s, msg)
		err = c.count(fnSign, 2, err)
	}
	return a.bytes, err
}

func (c *cryptoki) verify(s pkcs11.SessionHandle, mechanism uint, k pkcs11.ObjectHandle, msg, sig []byte) error {
	m := []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}
	if err := c.count(fnVerifyInit, 1, c.ctx.VerifyInit(s, m, k)); err != nil {
		return err
	}
	return c.count(fnVerify, 1, c.ctx.Verify(s, msg, sig))
}

func (c *cryptoki) generateKey(s pkcs11.SessionHandle, mechanism uint, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer c.objects.change(s, lasting(t))()
	h, err := c.ctx.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, t)
	return h, c.count(fnGenerateKey, 1, err)
}

func (c *cryptoki) generatePair(s pkcs11.SessionHandle, mechanism uint, pub, priv []*pkcs11.Attribute) (public, private pkcs11.ObjectHandle, err error) {
	defer c.objects.change(s, lasting(pub) || lasting(priv))()
	public, private, err = c.ctx.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, pub, priv)
	return public, private, c.count(fnGenerateKeyPair, 1, err)
}

func (c *cryptoki) wrapKey(s pkcs11.SessionHandle, mechanism uint, kek, key pkcs11.ObjectHandle) ([]byte, error) {
	return c.wrapInto(s, mechanism, kek, key, wrappedRoom)
}

func (c *cryptoki) wrapInto(s pkcs11.SessionHandle, mechanism uint, kek, key pkcs11.ObjectHandle, room int) ([]byte, error) {
	a := c.direct.wrap(s, mechanism, kek, key, room)
	if a.tooSmall() {
		c.calls[fnWrapKey].Add(1)
		b, err := c.ctx.WrapKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, kek, key)
		return b, c.count(fnWrapKey, 2, err)
	}
	return a.bytes, c.count(fnWrapKey, 1, a.err)
}

func (c *cryptoki) unwrapKey(s pkcs11.SessionHandle, mechanism uint, kek pkcs11.ObjectHandle, blob []byte, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer c.objects.change(s, lasting(t))()
	h, err := c.ctx.UnwrapKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(mechanism, nil)}, kek, blob, t)
	return h, c.count(fnUnwrapKey, 1, err)
}

func (c *cryptoki) deriveKey(s pkcs11.SessionHandle, m *pkcs11.Mechanism, base pkcs11.ObjectHandle, t []*pkcs11.Attribute) (pkcs11.ObjectHandle, error) {
	defer c.objects.change(s, lasting(t))()
	h, err := c.ctx.DeriveKey(s, []*pkcs11.Mechanism{m}, base, t)
	return h, c.count(fnDeriveKey, 1, err)
}

func (c *cryptoki) random(s pkcs11.SessionHandle, n int) ([]byte, error) {
	b, err := c.ctx.GenerateRandom(s, n)
	return b, c.count(fnGenerateRandom, 1, err)
}

// findMax bounds how many objects one search takes into memory. A device token has
// about ten objects, an SPP's a hundred.
const findMax = 10_000

// find lists the objects that match t. The search is closed on every path: an open one
// would poison the session for all later calls.
func (c *cryptoki) find(s pkcs11.SessionHandle, t []*pkcs11.Attribute) (found []pkcs11.ObjectHandle, err error) {
	defer c.objects.search(s)()
	if err := c.count(fnFindObjectsInit, 1, c.ctx.FindObjectsInit(s, t)); err != nil {
		return nil, err
	}
	defer func() {
		if e := c.count(fnFindObjectsFinal, 1, c.ctx.FindObjectsFinal(s)); err == nil {
			err = e
		}
	}()
	const batch = 64
	for len(found) < findMax {
		h, _, err := c.ctx.FindObjects(s, batch)
		if err = c.count(fnFindObjects, 1, err); err != nil {
			return nil, err
		}
		found = append(found, h...)
		if len(h) < batch {
			break
		}
	}
	return found, nil
}
