package interop_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/softhsm"
)

// What pkcs11-tool has no words for is asked of the module itself, through miekg/pkcs11: a private key's value, and
// wrapping under an AES key. A process has one PKCS#11 module and one token directory, so it is asked in a process of
// its own, this test program run again: TestCryptoki with the environment below.
const (
	envToken = "INTEROP_TOKEN" // label
	envKeep  = "INTEROP_KEEP"  // set: only destroy every secret key but the one of this label, nothing else
	envOut   = "INTEROP_OUT"   // file for the attempts, JSON
)

// attempts are what came of the attempts on one key: the module's code, "" where it gave the key out.
type attempts struct {
	Class, Label  string
	Read, Wrapped string
}

// The keys that are planted beside the token's, for one session: they may leave, and so show that an attempt can succeed.
const plantedKey = "planted"

// cryptoki tries to read and to wrap every key of the token.
func cryptoki(t testing.TB, k token) (all []attempts) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "attempts.json")
	again(t, k, envOut+"="+out)
	must(t, json.Unmarshal(read(t, out), &all))
	return all
}

// keep destroys every secret key of the token but one.
func keep(t testing.TB, k token, label string) {
	t.Helper()
	again(t, k, envKeep+"="+label)
}

func again(t testing.TB, k token, more ...string) {
	t.Helper()
	self, err := os.Executable()
	must(t, err)
	r := execute(t, k.env(append(more, envToken+"="+k.label, "GORACE=atexit_sleep_ms=10")...), nil, self, "-test.run=^TestCryptoki$", "-test.v")
	if r.code != 0 || !strings.Contains(r.out, "--- PASS: TestCryptoki") {
		t.Fatalf("the process for token %q: %v", k.label, r)
	}
}

// TestCryptoki is the process of its own.
func TestCryptoki(t *testing.T) {
	label := os.Getenv(envToken)
	if label == "" {
		return // it is the child process of other tests
	}
	s := login(t, label)
	if kept, ok := os.LookupEnv(envKeep); ok {
		for _, o := range s.find(pkcs11.CKO_SECRET_KEY) {
			if s.label(o) != kept {
				must(t, s.DestroyObject(s.session, o))
			}
		}
		return
	}
	kek := s.plant()
	var all []attempts
	for name, class := range map[string]uint{"Secret": pkcs11.CKO_SECRET_KEY, "Private": pkcs11.CKO_PRIVATE_KEY} {
		for _, o := range s.find(class) {
			if o == kek {
				continue
			}
			_, unread := s.GetAttributeValue(s.session, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_VALUE, nil)})
			_, unwrapped := s.WrapKey(s.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_WRAP, nil)}, kek, o)
			all = append(all, attempts{name, s.label(o), code(unread), code(unwrapped)})
		}
	}
	b, err := json.Marshal(all)
	must(t, err)
	must(t, os.WriteFile(os.Getenv(envOut), b, 0o600))
}

func code(err error) string {
	if err == nil {
		return ""
	}
	if c := ckr.FindString(err.Error()); c != "" {
		return c
	}
	return err.Error()
}

// session is logged in to a token.
type session struct {
	*pkcs11.Ctx
	t       testing.TB
	session pkcs11.SessionHandle
}

func login(t testing.TB, label string) session {
	t.Helper()
	path, err := softhsm.Module()
	must(t, err)
	s := session{Ctx: pkcs11.New(path), t: t}
	must(t, s.Initialize())
	t.Cleanup(func() {
		if err := s.Finalize(); err != nil {
			t.Error(err)
		}
		s.Destroy()
	})
	slots, err := s.GetSlotList(true)
	must(t, err)
	for _, slot := range slots {
		if info, err := s.GetTokenInfo(slot); err != nil || strings.TrimRight(info.Label, " \x00") != label {
			continue
		}
		s.session, err = s.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		must(t, err)
		must(t, s.Login(s.session, pkcs11.CKU_USER, os.Getenv(envPIN)))
		return s
	}
	t.Fatal(fmt.Errorf("no token has the label %q", label))
	return s
}

func (s session) find(class uint) []pkcs11.ObjectHandle {
	s.t.Helper()
	must(s.t, s.FindObjectsInit(s.session, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_CLASS, class)}))
	const many = 100
	found, _, err := s.FindObjects(s.session, many)
	must(s.t, err)
	must(s.t, s.FindObjectsFinal(s.session))
	if len(found) == many {
		s.t.Fatalf("the token has %d keys of one class or more", many)
	}
	return found
}

func (s session) label(o pkcs11.ObjectHandle) string {
	s.t.Helper()
	a, err := s.GetAttributeValue(s.session, o, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, nil)})
	must(s.t, err)
	return string(a[0].Value)
}

// p256 is the curve's object identifier, DER.
var p256 = []byte{0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07}

// plant makes a secret and a private key that may be read and wrapped, and gives the key to wrap with. All are session
// objects: they end with this process.
func (s session) plant() (kek pkcs11.ObjectHandle) {
	s.t.Helper()
	attribute := pkcs11.NewAttribute
	leaves := []*pkcs11.Attribute{
		attribute(pkcs11.CKA_TOKEN, false), attribute(pkcs11.CKA_LABEL, plantedKey), attribute(pkcs11.CKA_SENSITIVE, false), attribute(pkcs11.CKA_EXTRACTABLE, true),
	}
	aes := []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}
	_, err := s.GenerateKey(s.session, aes, append(leaves, attribute(pkcs11.CKA_VALUE_LEN, 32)))
	must(s.t, err)
	_, _, err = s.GenerateKeyPair(s.session, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_EC_KEY_PAIR_GEN, nil)},
		[]*pkcs11.Attribute{attribute(pkcs11.CKA_TOKEN, false), attribute(pkcs11.CKA_EC_PARAMS, p256)}, leaves)
	must(s.t, err)
	kek, err = s.GenerateKey(s.session, aes, []*pkcs11.Attribute{
		attribute(pkcs11.CKA_TOKEN, false), attribute(pkcs11.CKA_LABEL, "thief"), attribute(pkcs11.CKA_VALUE_LEN, 32), attribute(pkcs11.CKA_WRAP, true),
	})
	must(s.t, err)
	return kek
}
