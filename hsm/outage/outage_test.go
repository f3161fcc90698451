package outage_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

// tolerable is what a call may answer while the token goes away and comes back: ask
// later, or make the session key anew. Never that a key isn't there, that data is at
// fault, or a wrong result.
func tolerable(err error) bool {
	switch hsm.Classify(err) {
	case hsm.None, hsm.Retry, hsm.NewSession, hsm.Reinitialise:
		return !errors.Is(err, hsm.ErrNoKey) && !errors.Is(err, hsm.ErrPIN)
	}
	return false
}

// The token goes away while eight goroutines work, and comes back: nobody gets a wrong
// answer, calls meanwhile fail at once, and afterwards the same keys work without
// anybody's doing.
func TestLostWhileInUse(t *testing.T) {
	for _, code := range []hsm.Code{pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_DEVICE_REMOVED} {
		t.Run(code.String(), func(t *testing.T) {
			tok := open(t, fresh(t), hsm.Options{Sessions: 4})
			k := newKeys(t, tok)
			ctx := t.Context()
			expected, err := deviceMAC(ctx, k)
			if err != nil {
				t.Fatal(err)
			}
			before := reopened(t)
			var wg sync.WaitGroup
			var stop, bad atomic.Bool
			var away, good atomic.Int64
			for g := range 8 {
				wg.Go(func() {
					for !stop.Load() {
						var err error
						if g < 7 {
							err = acts[g%len(acts)].try(ctx, k)
						} else if mac, e := deviceMAC(ctx, k); e != nil {
							err = e
						} else if mac != expected {
							err = errors.New("a wrong MAC")
						}
						switch {
						case err == nil:
							good.Add(1)
						case errors.Is(err, hsm.ErrAway):
							away.Add(1)
							time.Sleep(time.Millisecond)
						}
						if !tolerable(err) && !bad.Swap(true) {
							t.Errorf("class %v: %v", hsm.Classify(err), err)
						}
					}
				})
			}
			for range 3 {
				away.Store(0)
				shim.LoseAs(code)
				eventually(t, "that everybody is told", func() error {
					if n := away.Load(); n < 50 {
						return fmt.Errorf("%d were told that the token is away", n)
					}
					return nil
				})
				shim.Lose(false)
				good.Store(0)
				eventually(t, "work after the loss", func() error {
					if good.Load() < 100 {
						return fmt.Errorf("%d acts done", good.Load())
					}
					return nil
				})
			}
			stop.Store(true)
			wg.Wait()
			if reopened(t) == before {
				t.Error("it was never opened again")
			}
			for _, a := range acts {
				if err := a.try(ctx, k); err != nil {
					t.Errorf("%s afterwards: %v", a.name, err)
				}
			}
		})
	}
}

// deviceMAC gives the MAC of a fixed device key.
func deviceMAC(ctx context.Context, k *keys) (mac string, err error) {
	err = k.derived(ctx, hsm.DeviceKey, func(d *hsm.Key) error {
		m, err := d.MAC(ctx, []byte("m"))
		mac = string(m)
		return err
	})
	return mac, err
}

// A lost token is opened again at a bounded rate, and its PIN is offered only when it is
// there.
func TestBoundedRate(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{})
	k := generate(t, tok, hsm.AuditKey, "audit")
	shim.Lose(true)
	eventually(t, "that the token is away", func() error {
		if err := tok.Check(t.Context()); !errors.Is(err, hsm.ErrAway) {
			return fmt.Errorf("health says %w", err)
		}
		return nil
	})
	seen := shim.Counts()
	start := time.Now()
	for time.Since(start) < 1200*time.Millisecond {
		if _, err := k.Sign(t.Context(), make([]byte, 32)); err == nil {
			t.Fatal("signed without a token")
		}
		time.Sleep(time.Millisecond)
	}
	tries := delta(seen, shim.Counts())
	took := time.Since(start)
	if g := gauges(t)["devicekeys_pkcs11_token_lost{"+tok.Info().Label+"}"]; g != 1 {
		t.Errorf("token_lost is %v", g)
	}
	shim.Lose(false)
	// Each try initialises the module once, by crypto11 (5 tries at most, for a token
	// file that is being rewritten), and attaches; pauses are 250 ms, then twice as long.
	most := uint64(took/(250*time.Millisecond) + 1)
	if n := tries["C_Finalize"]; n > 5*most {
		t.Errorf("in %v the module was finalised %d times", took, n)
	}
	if n := tries["C_Login"]; n != 0 {
		t.Errorf("with no token in the slot the PIN was offered %d times", n)
	}
	if n := tries["C_SignInit"] + tries["C_OpenSession"]; n != 0 {
		t.Errorf("%d calls went to the module while the token was away", n)
	}
	eventually(t, "the signature afterwards", func() error {
		_, err := k.Sign(t.Context(), make([]byte, 32))
		return err
	})
	if g := gauges(t)["devicekeys_pkcs11_token_lost{"+tok.Info().Label+"}"]; g != 0 {
		t.Errorf("afterwards token_lost is %v", g)
	}
}

// What lives in a session is gone after a loss, and says so; what lives in the token is
// found again, with Public the same, and copies are made anew.
func TestWhatSurvives(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{})
	ctx := t.Context()
	master, audit := generate(t, tok, hsm.MasterKey, "master"), generate(t, tok, hsm.AuditKey, "audit")
	public := string(audit.Public())
	device, err := tok.Derive(ctx, master, hsm.KDF1, []byte("device"), hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.PutData(ctx, hsm.Data{Application: "a", Label: "lock", Value: []byte("v"), Private: true, OneWay: true}); err != nil {
		t.Fatal(err)
	}
	shim.Drop()
	eventually(t, "the token again", func() error { return tok.Check(ctx) })
	if _, err := device.MAC(ctx, []byte("m")); !errors.Is(err, hsm.ErrKeyGone) || hsm.Classify(err) != hsm.NewSession {
		t.Errorf("a session key of before: %v", err)
	}
	if err := device.Destroy(ctx); !errors.Is(err, hsm.ErrKeyGone) {
		t.Errorf("destroy a session key of before: %v", err)
	}
	if _, err := audit.Sign(ctx, make([]byte, 32)); err != nil || string(audit.Public()) != public {
		t.Errorf("a token key of before: %v", err)
	}
	if again, err := tok.Derive(ctx, master, hsm.KDF1, []byte("device"), hsm.Spec{Kind: hsm.DeviceKey}); err != nil {
		t.Error(err)
	} else if err := again.Destroy(ctx); err != nil {
		t.Error(err)
	}
	if d, err := tok.Data(ctx, "a", "lock"); err != nil || len(d) != 1 {
		t.Errorf("%d data objects, %v", len(d), err)
	}
	if err := audit.Destroy(ctx); err != nil {
		t.Errorf("destroy a token key of before: %v", err)
	}
	if _, err := tok.Find(ctx, hsm.Spec{Kind: hsm.AuditKey, Label: "audit"}); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("find it destroyed: %v", err)
	}
	if swept, err := tok.Sweep(ctx); err != nil || len(swept) != 0 {
		t.Errorf("its public half is left: %q, %v", swept, err)
	}
}

// A private object that a lost login hides is never reported as absent: a device would
// take itself for unlocked.
func TestNoFalseAbsence(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{})
	ctx := t.Context()
	if err := tok.PutData(ctx, hsm.Data{Application: "a", Label: "lock", Value: []byte("v"), Private: true, OneWay: true}); err != nil {
		t.Fatal(err)
	}
	generate(t, tok, hsm.AuditKey, "audit")
	look := func(when string) {
		if d, err := tok.Data(ctx, "a", "lock"); err == nil && len(d) != 1 || !tolerable(err) {
			t.Errorf("%s: %d data objects, %v", when, len(d), err)
		}
		if _, err := tok.Find(ctx, hsm.Spec{Kind: hsm.AuditKey, Label: "audit"}); !tolerable(err) {
			t.Errorf("%s: %v", when, err)
		}
	}
	for range 4 {
		shim.Drop()
		look("dropped")
		look("dropped, once more")
		eventually(t, "the token again", func() error { return tok.Check(ctx) })
	}
	// A login can also end alone, under open sessions.
	raw, session := rawSession(t, tok.Info().Label)
	if err := raw.Logout(session); err != nil {
		t.Fatal(err)
	}
	look("logged out")
	eventually(t, "the token again", func() error { return tok.Check(ctx) })
	look("logged in")
}

// TLS goes on with the signer it had.
func TestSignerSurvives(t *testing.T) {
	tok := open(t, signToken, hsm.Options{})
	generate(t, tok, hsm.TLSKey, "dev-tls")
	signer, err := tok.Signer("dev-tls")
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour), DNSNames: []string{"spp"}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, signer.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(leaf)
	server := &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: signer}}}
	handshake := func() error {
		a, b := net.Pipe()
		defer a.Close()
		defer b.Close()
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		answer := make(chan error, 1)
		go func() {
			err := tls.Server(b, server).HandshakeContext(ctx)
			if err != nil {
				b.Close()
			}
			answer <- err
		}()
		err := tls.Client(a, &tls.Config{RootCAs: roots, ServerName: "spp"}).HandshakeContext(ctx)
		a.Close()
		return errors.Join(<-answer, err)
	}
	if err := handshake(); err != nil {
		t.Fatal(err)
	}
	for _, loss := range []struct {
		name string
		lose func()
	}{
		{"sessions dropped", shim.Drop},
		{"token away", func() {
			shim.Lose(true)
			if err := handshake(); err == nil {
				t.Error("a handshake without a token")
			}
			shim.Lose(false)
		}},
		{"a session with an operation left open", func() {
			for range 8 { // in each of crypto11's sessions
				fails(t, softhsm.Rule{Function: "C_Sign", Code: pkcs11.CKR_DEVICE_ERROR})
				if _, err := signer.Sign(rand.Reader, make([]byte, 32), nil); err == nil {
					t.Error("signed through a failing module")
				}
			}
		}},
		{"module finalised", func() {
			if err := pkcs11.New(shim.Module()).Finalize(); err != nil {
				t.Error(err)
			}
		}},
	} {
		loss.lose()
		eventually(t, loss.name+": a handshake", handshake)
		for range 10 { // and in every session
			if _, err := signer.Sign(rand.Reader, make([]byte, 32), nil); err != nil {
				t.Errorf("%s: sign afterwards: %v", loss.name, err)
			}
		}
		if _, ok := signer.Public().(*ecdsa.PublicKey); !ok {
			t.Errorf("%s: the public key is a %T", loss.name, signer.Public())
		}
		eventually(t, loss.name+": health", func() error { return tok.Check(t.Context()) })
	}
}

// rawSession opens a session behind package hsm's back; the login holds for it too.
func rawSession(t *testing.T, label string) (*pkcs11.Ctx, pkcs11.SessionHandle) {
	t.Helper()
	raw := pkcs11.New(shim.Module())
	slots, err := raw.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range slots {
		if i, err := raw.GetTokenInfo(id); err == nil && i.Label == label {
			s, err := raw.OpenSession(id, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
			if err != nil {
				t.Fatal(err)
			}
			return raw, s
		}
	}
	t.Fatalf("no token %q", label)
	return nil, 0
}

func changePIN(t *testing.T, c hsm.Credentials, pin string) {
	t.Helper()
	raw, s := rawSession(t, c.Token.Label)
	if err := raw.SetPIN(s, string(c.PIN.Bytes()), pin); err != nil {
		t.Fatal(err)
	}
}

// The PIN of crypto11's token is changed: signing for TLS ends and says why, the other
// token goes on, also when the module has to be initialised anew without crypto11.
func TestSignPINChanged(t *testing.T) {
	for _, loss := range []struct {
		name string
		lose func(*testing.T)
	}{
		{"sessions dropped", func(*testing.T) { shim.Drop() }},
		{"module finalised", func(t *testing.T) {
			if err := pkcs11.New(shim.Module()).Finalize(); err != nil {
				t.Error(err)
			}
		}},
	} {
		t.Run(loss.name, func(t *testing.T) {
			c, c2 := fresh(t), fresh(t)
			stopped(t)
			ctx := t.Context()
			m, err := hsm.Load(ctx, hsm.Config{Path: shim.Module(), LockFile: directory.LockFile(), SignToken: &c})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := m.Close(); err != nil {
					t.Error(err)
				}
			})
			tok, err := m.Open(ctx, c, hsm.Options{})
			if err != nil {
				t.Fatal(err)
			}
			other, err := m.Open(ctx, c2, hsm.Options{})
			if err != nil {
				t.Fatal(err)
			}
			generate(t, tok, hsm.TLSKey, "tls")
			k := generate(t, other, hsm.AuditKey, "audit")
			signer, err := tok.Signer("tls")
			if err != nil {
				t.Fatal(err)
			}
			changePIN(t, c, "another-pin")
			seen := shim.Counts()["C_Login"]
			loss.lose(t)
			eventually(t, "that signing ends", func() error {
				if _, err := signer.Sign(rand.Reader, make([]byte, 32), nil); !errors.Is(err, hsm.ErrPIN) {
					return fmt.Errorf("a signature: %w", err)
				}
				return nil
			})
			eventually(t, "the other token", func() error {
				_, err := k.Sign(ctx, make([]byte, 32))
				return err
			})
			if err := tok.Check(ctx); !errors.Is(err, hsm.ErrPIN) {
				t.Errorf("health says %v", err)
			}
			if n := shim.Counts()["C_Login"] - seen; n != 2 {
				t.Errorf("two tokens were opened again with %d logins", n)
			}
		})
	}
}

// The PIN is changed while the token is away: it is offered once, then never again, and
// everybody is told. Another token of the process goes on.
func TestPINChanged(t *testing.T) {
	c := fresh(t)
	tok, other := open(t, c, hsm.Options{}), open(t, fresh(t), hsm.Options{})
	k, k2 := generate(t, tok, hsm.AuditKey, "audit"), generate(t, other, hsm.AuditKey, "audit")
	changePIN(t, c, "another-pin")
	shim.Drop()
	seen := shim.Counts()["C_Login"]
	eventually(t, "that the PIN is refused", func() error {
		if err := tok.Check(t.Context()); !errors.Is(err, hsm.ErrPIN) {
			return fmt.Errorf("health says %w", err)
		}
		return nil
	})
	eventually(t, "the other token", func() error {
		_, err := k2.Sign(t.Context(), make([]byte, 32))
		return err
	})
	settled := shim.Counts()["C_Login"]
	// This token's PIN once; the other token's and crypto11's once each, at most.
	if settled-seen > 3 {
		t.Errorf("PINs were offered %d times", settled-seen)
	}
	for until := time.Now().Add(time.Second); time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
		_, err := k.Sign(t.Context(), make([]byte, 32))
		if !errors.Is(err, hsm.ErrPIN) || hsm.Classify(err) != hsm.Stop {
			t.Fatalf("class %v: %v", hsm.Classify(err), err)
		}
	}
	if n := shim.Counts()["C_Login"] - settled; n != 0 {
		t.Errorf("a PIN was offered %d times more", n)
	}
	if g := gauges(t)["devicekeys_pkcs11_token_lost{"+c.Token.Label+"}"]; g != 1 {
		t.Errorf("token_lost is %v", g)
	}
	if _, err := module.Open(t.Context(), c, hsm.Options{}); !errors.Is(err, hsm.ErrPIN) {
		t.Errorf("open it a second time: %v", err)
	}
	if err := tok.Close(); err != nil {
		t.Error(err)
	}
	c.PIN = secret.New([]byte("another-pin"))
	if err := open(t, c, hsm.Options{}).Check(t.Context()); err != nil {
		t.Errorf("with the right PIN: %v", err)
	}
}

// One token of several is lost: the others don't notice, their session keys live on.
func TestOthersGoOn(t *testing.T) {
	tok, other := open(t, fresh(t), hsm.Options{}), open(t, fresh(t), hsm.Options{})
	k, master := generate(t, tok, hsm.AuditKey, "audit"), generate(t, other, hsm.MasterKey, "master")
	device, err := other.Derive(t.Context(), master, hsm.KDF1, []byte("device"), hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		t.Fatal(err)
	}
	path := tokenPath(t, tok.Info().Serial)
	if err := os.Rename(path, path+".away"); err != nil {
		t.Fatal(err)
	}
	eventually(t, "that health fails", func() error {
		if err := tok.Check(t.Context()); err == nil {
			return errors.New("it is well")
		}
		return nil
	})
	for range 50 {
		if _, err := device.MAC(t.Context(), []byte("m")); err != nil {
			t.Fatalf("the other token's session key: %v", err)
		}
		if _, err := k.Sign(t.Context(), make([]byte, 32)); err == nil || !tolerable(err) {
			t.Fatalf("the lost token's key: %v", err)
		}
		time.Sleep(10 * time.Millisecond)
	}
	if err := os.Rename(path+".away", path); err != nil {
		t.Fatal(err)
	}
	// SoftHSM finds it again only when it is initialised anew, and that is left alone as
	// long as the others are well. When they are gone, too, all come back.
	shim.Drop()
	shim.Lose(true)
	eventually(t, "that the other is lost", func() error {
		if err := other.Check(t.Context()); !errors.Is(err, hsm.ErrAway) {
			return fmt.Errorf("health says %w", err)
		}
		return nil
	})
	shim.Lose(false)
	eventually(t, "the lost token", func() error {
		_, err := k.Sign(t.Context(), make([]byte, 32))
		return err
	})
	eventually(t, "the other token", func() error { return other.Check(t.Context()) })
}

// tokenPath is where SoftHSM keeps a token.
func tokenPath(t *testing.T, serial string) string {
	t.Helper()
	all, err := filepath.Glob(filepath.Join(directory.Path(), "tokens", "*"))
	if err != nil {
		t.Fatal(err)
	}
	// The folder's name is a UUID that ends with the serial number.
	for _, path := range all {
		name := filepath.Base(path)
		if len(name) == 36 && name[19:23]+name[24:] == serial {
			return path
		}
	}
	t.Fatalf("no folder of token %s among %q", serial, all)
	return ""
}

// The real thing: the directory of the tokens is moved away and back. SoftHSM calls its
// sessions healthy all the time.
func TestDirectoryMoved(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{})
	signed := open(t, signToken, hsm.Options{})
	ctx := t.Context()
	k := generate(t, tok, hsm.AuditKey, "audit")
	generate(t, signed, hsm.TLSKey, "dev-moved")
	signer, err := signed.Signer("dev-moved")
	if err != nil {
		t.Fatal(err)
	}
	if err := tok.PutData(ctx, hsm.Data{Application: "a", Label: "lock", Value: []byte("v"), Private: true}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(directory.Path(), "tokens")
	for range 2 {
		if err := os.Rename(path, path+".away"); err != nil {
			t.Fatal(err)
		}
		for until := time.Now().Add(700 * time.Millisecond); time.Now().Before(until); time.Sleep(5 * time.Millisecond) {
			if err := tok.Check(ctx); err == nil || errors.Is(err, hsm.ErrPIN) {
				t.Fatalf("health without a directory: %v", err)
			}
			if d, err := tok.Data(ctx, "a", "lock"); err == nil {
				t.Fatalf("%d data objects without a directory", len(d))
			}
			if _, err := k.Sign(ctx, make([]byte, 32)); err == nil || !tolerable(err) {
				t.Fatalf("sign without a directory: %v", err)
			}
			if _, err := signer.Sign(rand.Reader, make([]byte, 32), nil); err == nil {
				t.Fatal("sign for TLS without a directory")
			}
		}
		if err := os.Rename(path+".away", path); err != nil {
			t.Fatal(err)
		}
		eventually(t, "health", func() error { return tok.Check(ctx) })
		if _, err := k.Sign(ctx, make([]byte, 32)); err != nil {
			t.Error(err)
		}
		eventually(t, "TLS", func() error {
			_, err := signer.Sign(rand.Reader, make([]byte, 32), nil)
			return err
		})
		if d, err := tok.Data(ctx, "a", "lock"); err != nil || len(d) != 1 {
			t.Errorf("%d data objects, %v", len(d), err)
		}
	}
}

// Closing a token that is away, and a module, is no error and doesn't wait for it.
func TestCloseWhileAway(t *testing.T) {
	c := fresh(t)
	tok, err := module.Open(t.Context(), c, hsm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	k := generate(t, tok, hsm.AuditKey, "audit")
	shim.Lose(true)
	if _, err := k.Sign(t.Context(), make([]byte, 32)); err == nil {
		t.Error("signed without a token")
	}
	if err := tok.Close(); err != nil {
		t.Errorf("close it while it is away: %v", err)
	}
	if _, err := k.Sign(t.Context(), make([]byte, 32)); !errors.Is(err, hsm.ErrClosed) {
		t.Errorf("sign afterwards: %v", err)
	}
	shim.Lose(false)
	eventually(t, "the token once more", func() error {
		tok, err := module.Open(t.Context(), c, hsm.Options{})
		if err != nil {
			return err
		}
		return errors.Join(tok.Check(t.Context()), tok.Close())
	})
}
