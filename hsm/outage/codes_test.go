package outage_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/softhsm"
)

// codeOf is the module's answer in err.
func codeOf(err error) hsm.Code {
	var c hsm.Code
	errors.As(err, &c)
	return c
}

// codes are those that a module in trouble gives: each class has some. The blame for them
// is never the data's.
var codes = []hsm.Code{
	pkcs11.CKR_HOST_MEMORY, pkcs11.CKR_FUNCTION_FAILED, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_CANCEL,
	pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_TOKEN_NOT_PRESENT,
	pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_OBJECT_HANDLE_INVALID, pkcs11.CKR_KEY_HANDLE_INVALID,
	pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED, pkcs11.CKR_BUFFER_TOO_SMALL,
	pkcs11.CKR_USER_NOT_LOGGED_IN, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_MECHANISM_INVALID,
}

// An act is one use of the token. It makes anew whatever session key it needs.
type act struct {
	name      string
	functions []string // of the module, that it calls
	try       func(context.Context, *keys) error
}

type keys struct {
	tok                               *hsm.Token
	master, audit, submit, pool, chip *hsm.Key
}

func newKeys(t testing.TB, tok *hsm.Token) *keys {
	t.Helper()
	return &keys{
		tok:    tok,
		master: generate(t, tok, hsm.MasterKey, "master"),
		audit:  generate(t, tok, hsm.AuditKey, "audit"),
		submit: generate(t, tok, hsm.SubmissionKey, "submit"),
		pool:   generate(t, tok, hsm.PoolSealKey, "pool"),
		chip:   generate(t, tok, hsm.ChipKey, "chip"),
	}
}

// derived makes a device key, has f use it, and destroys it.
func (k *keys) derived(ctx context.Context, kind hsm.Kind, f func(*hsm.Key) error) error {
	d, err := k.tok.Derive(ctx, k.master, hsm.KDF1, []byte("device"), hsm.Spec{Kind: kind})
	if err != nil {
		return err
	}
	err = f(d)
	if e := d.Destroy(ctx); e != nil && !errors.Is(e, hsm.ErrKeyGone) {
		err = errors.Join(err, e)
	}
	return err
}

var acts = []act{
	{"sign", []string{"C_SignInit", "C_Sign"}, func(ctx context.Context, k *keys) error {
		_, err := k.audit.Sign(ctx, make([]byte, 32))
		return err
	}},
	{"derive", []string{"C_DeriveKey", "C_DestroyObject"}, func(ctx context.Context, k *keys) error {
		return k.derived(ctx, hsm.DeviceKey, func(*hsm.Key) error { return nil })
	}},
	{"verify", []string{"C_VerifyInit", "C_Verify"}, func(ctx context.Context, k *keys) error {
		return k.derived(ctx, hsm.DeviceKey, func(d *hsm.Key) error {
			m, err := d.MAC(ctx, []byte("m"))
			if err != nil {
				return err
			}
			return d.Verify(ctx, []byte("m"), m)
		})
	}},
	{"agree and wrap", []string{"C_GenerateKeyPair", "C_DeriveKey", "C_WrapKey"}, func(ctx context.Context, k *keys) error {
		own, err := k.tok.Generate(ctx, hsm.Spec{Kind: hsm.EphemeralKey})
		if err != nil {
			return err
		}
		defer own.Destroy(context.WithoutCancel(ctx)) // or it dies with its session
		agreed, err := k.tok.Agree(ctx, own, k.submit.Public(), hsm.Spec{Kind: hsm.AgreedKey})
		if err != nil {
			return err
		}
		defer agreed.Destroy(context.WithoutCancel(ctx))
		kek, err := k.tok.Derive(ctx, agreed, hsm.KDF1, []byte("kek"), hsm.Spec{Kind: hsm.TransferWrapKey})
		if err != nil {
			return err
		}
		defer kek.Destroy(context.WithoutCancel(ctx))
		return k.derived(ctx, hsm.DeviceKey, func(d *hsm.Key) error {
			b, err := k.tok.Wrap(ctx, kek, d)
			if err == nil && len(b) != 40 {
				err = fmt.Errorf("%d bytes", len(b))
			}
			return err
		})
	}},
	{"seal and open", []string{"C_EncryptInit", "C_Encrypt", "C_DecryptInit", "C_Decrypt"}, func(ctx context.Context, k *keys) error {
		nonce, sealed, err := k.pool.Seal(ctx, []byte("aad"), []byte("secret"))
		if err != nil {
			return err
		}
		b, err := k.pool.Open(ctx, nonce, []byte("aad"), sealed)
		if err == nil && string(b) != "secret" {
			err = fmt.Errorf("opened as %q", b)
		}
		return err
	}},
	{"wrap and unwrap", []string{"C_WrapKey", "C_UnwrapKey"}, func(ctx context.Context, k *keys) error {
		kek, err := k.tok.Derive(ctx, k.chip, hsm.KDF1, []byte("wrap"), hsm.Spec{Kind: hsm.ChipWrapKey})
		if err != nil {
			return err
		}
		defer kek.Destroy(context.WithoutCancel(ctx))
		open, err := k.tok.Derive(ctx, k.chip, hsm.KDF1, []byte("wrap"), hsm.Spec{Kind: hsm.ChipUnwrapKey})
		if err != nil {
			return err
		}
		defer open.Destroy(context.WithoutCancel(ctx))
		return k.derived(ctx, hsm.DeviceKey, func(d *hsm.Key) error {
			blob, err := k.tok.Wrap(ctx, kek, d)
			if err != nil {
				return err
			}
			back, err := k.tok.Unwrap(ctx, open, blob, hsm.Spec{Kind: hsm.InboundKey})
			if err != nil {
				return err
			}
			defer back.Destroy(context.WithoutCancel(ctx))
			m, err := d.MAC(ctx, []byte("m"))
			if err != nil {
				return err
			}
			n, err := back.MAC(ctx, []byte("m"))
			if err == nil && string(m) != string(n) {
				err = errors.New("it isn't the key that was wrapped")
			}
			return err
		})
	}},
	{"find", []string{"C_FindObjectsInit", "C_FindObjects", "C_FindObjectsFinal", "C_GetAttributeValue"}, func(ctx context.Context, k *keys) error {
		_, err := k.tok.Find(ctx, hsm.Spec{Kind: hsm.AuditKey, Label: "audit"})
		return err
	}},
	{"find nothing", []string{"C_GetTokenInfo", "C_GetSessionInfo"}, func(ctx context.Context, k *keys) error {
		d, err := k.tok.Data(ctx, "nobody", "")
		if len(d) != 0 {
			err = fmt.Errorf("found %d", len(d))
		}
		return err
	}},
}

// Each code, from each function, in the first call and the second (miekg asks for a size
// first), with the effect lost and kept: the act fails or is done once more, never with a
// wrong answer; afterwards it works, with the same keys. A session that such a failure
// leaves with an operation open never serves again.
func TestEachCode(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{Sessions: 2})
	k := newKeys(t, tok)
	for _, a := range acts {
		t.Run(a.name, func(t *testing.T) {
			ctx := t.Context()
			if err := a.try(ctx, k); err != nil {
				t.Fatal(err)
			}
			for _, function := range a.functions {
				for _, code := range codes {
					for which := range 4 {
						r := softhsm.Rule{Function: function, Code: code, From: uint64(which/2) + 1, After: which%2 == 1}
						name := fmt.Sprintf("%s answers %s to call %d, after %v", function, code.String(), r.From, r.After)
						fails(t, r)
						err := a.try(ctx, k)
						shim.Clear()
						if c := hsm.Classify(err); c == hsm.DataFault || errors.Is(err, hsm.ErrPIN) || errors.Is(err, hsm.ErrNoKey) {
							t.Errorf("%s: class %v: %v", name, c, err)
						}
						eventually(t, name+": the act after it", func() error { return a.try(ctx, k) })
					}
				}
			}
		})
	}
	if n := gauges(t)["devicekeys_pkcs11_sessions_in_use{"+tok.Info().Label+"}"]; n != 0 {
		t.Errorf("%v sessions are still in use", n)
	}
}

// A failing login doesn't open the token, and the next one does.
func TestLoginFails(t *testing.T) {
	c := fresh(t)
	for _, function := range []string{"C_OpenSession", "C_Login", "C_GetMechanismList"} {
		for _, code := range codes {
			for _, after := range []bool{false, true} {
				fails(t, softhsm.Rule{Function: function, Code: code, After: after})
				tok, err := module.Open(t.Context(), c, hsm.Options{})
				shim.Clear()
				if err == nil {
					// miekg asks once more for a list that is said to have grown.
					if function != "C_GetMechanismList" || code != pkcs11.CKR_BUFFER_TOO_SMALL {
						t.Errorf("%s answers %v, after %v, and the token is open", function, code, after)
					}
					if err := tok.Close(); err != nil {
						t.Error(err)
					}
					continue
				}
				if tok, err = module.Open(t.Context(), c, hsm.Options{}); err != nil {
					t.Errorf("%s has answered %v, after %v: %v", function, code, after, err)
					continue
				}
				if err := errors.Join(tok.Check(t.Context()), tok.Close()); err != nil {
					t.Errorf("%s has answered %v, after %v: %v", function, code, after, err)
				}
			}
		}
	}
}

// A PIN that is refused when the token is opened is offered once.
func TestLoginRefused(t *testing.T) {
	c := fresh(t)
	before := shim.Counts()["C_Login"]
	fails(t, softhsm.Rule{Function: "C_Login", Code: pkcs11.CKR_PIN_INCORRECT, To: softhsm.Forever})
	if _, err := module.Open(t.Context(), c, hsm.Options{}); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("refused: %v", err)
	}
	if n := shim.Counts()["C_Login"] - before; n != 1 {
		t.Errorf("the PIN was offered %d times", n)
	}
}

// An HSM with few sessions: those who find none are told to try again, and nothing is
// taken for a loss.
func TestSessionLimit(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{Sessions: 4})
	k := generate(t, tok, hsm.AuditKey, "audit") // its session is open
	before := reopened(t)
	shim.Sessions(1) // there are more already
	release := make(chan struct{})
	if err := shim.Delay("C_Sign", 20e6); err != nil {
		t.Fatal(err)
	}
	results := make(chan error)
	for range 4 {
		go func() {
			<-release
			_, err := k.Sign(context.WithoutCancel(t.Context()), make([]byte, 32))
			results <- err
		}()
	}
	close(release)
	var good, refused int
	for range 4 {
		switch err := <-results; {
		case err == nil:
			good++
		case codeOf(err) == pkcs11.CKR_SESSION_COUNT && hsm.Classify(err) == hsm.Retry:
			refused++
		default:
			t.Errorf("with no session to be had: %v", err)
		}
	}
	if good == 0 || refused == 0 {
		t.Errorf("%d signatures and %d refusals; one session was open", good, refused)
	}
	shim.Clear()
	if _, err := k.Sign(t.Context(), make([]byte, 32)); err != nil {
		t.Error(err)
	}
	if reopened(t) != before {
		t.Error("the token was opened again")
	}
}
