package message_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/statement"
)

// raw2key gives the key of a private scalar.
func raw2key(t testing.TB, scalar []byte) *software {
	t.Helper()
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), scalar)
	must(t, err)
	p, err := statement.FromECDSA(&k.PublicKey)
	must(t, err)
	return &software{private: k, public: p}
}

// TestSealOpen: anonymous and signed.
func TestSealOpen(t *testing.T) {
	t.Parallel()
	to, from := device(t, "device"), newSoftware(t, "sender")
	m := newMessage(t, "hello")
	for name, c := range map[string]struct {
		sender statement.Signer
		policy message.Policy
		want   statement.PublicKey
	}{
		"anonymous":            {nil, everyone, statement.PublicKey{}},
		"anonymous or known":   {nil, message.Policy{Anonymous: true, Senders: []statement.PublicKey{from.public}}, statement.PublicKey{}},
		"signed":               {from, message.Policy{Senders: []statement.PublicKey{{}, newSoftware(t, "x").public, from.public}}, from.public},
		"signed, or anonymous": {from, message.Policy{Anonymous: true, Senders: []statement.PublicKey{from.public}}, from.public},
	} {
		raw, err := message.Seal(t.Context(), to.Certificate, m, c.sender)
		must(t, err)
		got, err := message.Open(t.Context(), to, raw, c.policy)
		must(t, err)
		if diff := cmp.Diff(m, got.Message); diff != "" || got.Sender != c.want {
			t.Errorf("%s: %s, sender %s", name, diff, got.Sender)
		}
		h, err := message.ParseHeader(raw)
		must(t, err)
		if h.Suite != message.SuiteP256 || h.KeyID != message.KeyIDOf(to.Certificate.Public) || h.Ciphertext == 0 {
			t.Errorf("%s: header %+v", name, h)
		}
		again, err := message.Seal(t.Context(), to.Certificate, m, c.sender)
		must(t, err)
		if bytes.Equal(raw, again) {
			t.Errorf("%s: two encryptions are the same", name)
		}
	}
}

// TestSender: whom a recipient doesn't take.
func TestSender(t *testing.T) {
	t.Parallel()
	to, from, other := device(t, "device"), newSoftware(t, "sender"), newSoftware(t, "another")
	for name, c := range map[string]struct {
		sender statement.Signer
		policy message.Policy
	}{
		"the zero policy takes nobody":              {nil, message.Policy{}},
		"nor one who signed":                        {from, message.Policy{}},
		"signed, and only anonymous mail is taken":  {from, everyone},
		"anonymous, and only known senders are":     {nil, message.Policy{Senders: []statement.PublicKey{from.public}}},
		"signed by another":                         {other, message.Policy{Anonymous: true, Senders: []statement.PublicKey{from.public}}},
		"signed, and a key that is none was listed": {from, message.Policy{Senders: []statement.PublicKey{{}}}},
	} {
		raw, err := message.Seal(t.Context(), to.Certificate, newMessage(t, "hello"), c.sender)
		must(t, err)
		got, err := message.Open(t.Context(), to, raw, c.policy)
		if !errors.Is(err, message.ErrSender) || got.Body != nil {
			t.Errorf("%s: %v, %q", name, err, got.Body)
		}
	}
}

// TestWrongRecipient: another key, another certificate of the same key, another realm.
func TestWrongRecipient(t *testing.T) {
	t.Parallel()
	to := device(t, "device")
	raw, err := message.Seal(t.Context(), to.Certificate, newMessage(t, "hello"), nil)
	must(t, err)
	key := newSoftware(t, "device")
	for name, c := range map[string]struct {
		to   message.Recipient
		want error
	}{
		"another device":          {device(t, "another"), message.ErrRecipient},
		"another certificate":     {message.Recipient{Key: key, Certificate: certify(t, key.public, dev, keypackage.UseAgreement)}, message.ErrOpen},
		"another realm":           {message.Recipient{Key: key, Certificate: certify(t, key.public, prod, keypackage.UseAgreement)}, message.ErrOpen},
		"another private key":     {message.Recipient{Key: newSoftware(t, "another"), Certificate: to.Certificate}, message.ErrOpen},
		"its own, after all that": {to, nil},
	} {
		if _, err := message.Open(t.Context(), c.to, raw, everyone); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	signing := certify(t, key.public, dev, keypackage.UseSignature)
	if _, err := message.Open(t.Context(), message.Recipient{Key: key, Certificate: signing}, raw, everyone); err == nil || !strings.Contains(err.Error(), "key agreement") {
		t.Errorf("a signing key opens: %v", err)
	}
	if _, err := message.Open(t.Context(), message.Recipient{Certificate: to.Certificate}, raw, everyone); err == nil {
		t.Error("without a key")
	}
}

// TestAgreer: what goes wrong in the token is the token's error.
func TestAgreer(t *testing.T) {
	t.Parallel()
	to := device(t, "device")
	raw, err := message.Seal(t.Context(), to.Certificate, newMessage(t, "hello"), nil)
	must(t, err)
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("the token is gone")
	cancel(gone)
	if _, err := message.Open(ctx, to, raw, everyone); !errors.Is(err, gone) || errors.Is(err, message.ErrOpen) {
		t.Errorf("a token that is away: %v", err)
	}
	to.Key.(*software).short = true
	if _, err := message.Open(t.Context(), to, raw, everyone); err == nil || !strings.Contains(err.Error(), "31 bytes") {
		t.Errorf("a token that gives too little: %v", err)
	}
}

// TestPassedOn: what one recipient opened can't be passed on to another as a letter from its sender, nor under another id.
func TestPassedOn(t *testing.T) {
	t.Parallel()
	to, other, from := device(t, "device"), device(t, "other"), newSoftware(t, "sender")
	policy := message.Policy{Anonymous: true, Senders: []statement.PublicKey{from.public}}
	m := newMessage(t, "pay me")
	content := detcbor.Array(1, 1, ptr(to.Certificate.Hash())[:], m.ID[:], m.ContentType, m.Body)
	signature, err := statement.Sign(t.Context(), from, message.Statement, content)
	must(t, err)
	for name, c := range map[string]struct {
		to    message.Recipient
		plain []byte
		want  error
	}{
		"the letter itself":              {to, detcbor.Array(1, 1, signature), nil},
		"a signed letter to another":     {other, detcbor.Array(1, 1, signature), message.ErrRecipient},
		"an anonymous letter to another": {other, detcbor.Array(1, 0, content), message.ErrRecipient},
		"a statement as a content":       {to, detcbor.Array(1, 0, signature), message.ErrForm},
		"a content as a statement":       {to, detcbor.Array(1, 1, content), message.ErrForm},
		"of another form":                {to, detcbor.Array(1, 2, content), message.ErrForm},
		"of another version":             {to, detcbor.Array(2, 0, content), message.ErrForm},
		"null":                           {to, detcbor.Array(1, 0, nil), message.ErrForm},
		"nothing":                        {to, nil, message.ErrForm},
		"content of another version":     {to, plain(2, 1, ptr(to.Certificate.Hash())[:], m.ID[:], "text/plain", m.Body), message.ErrForm},
		"content of the other realm":     {to, plain(1, 2, ptr(to.Certificate.Hash())[:], m.ID[:], "text/plain", m.Body), message.ErrRecipient},
		"an id of 15 bytes":              {to, plain(1, 1, ptr(to.Certificate.Hash())[:], m.ID[1:], "text/plain", m.Body), message.ErrForm},
		"no id":                          {to, plain(1, 1, ptr(to.Certificate.Hash())[:], make([]byte, 16), "text/plain", m.Body), message.ErrForm},
		"no body":                        {to, plain(1, 1, ptr(to.Certificate.Hash())[:], m.ID[:], "text/plain", nil), message.ErrForm},
		"no content type":                {to, plain(1, 1, ptr(to.Certificate.Hash())[:], m.ID[:], "", m.Body), message.ErrForm},
		"one field more":                 {to, plain(1, 1, ptr(to.Certificate.Hash())[:], m.ID[:], "text/plain", m.Body, 1), message.ErrForm},
	} {
		if _, err := message.Open(t.Context(), c.to, seal(t, c.to.Certificate, c.plain), policy); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	// Another kind of statement by the same key is no message.
	unlock, err := statement.Sign(t.Context(), from, statement.Unlock, content)
	must(t, err)
	if _, err := message.Open(t.Context(), to, seal(t, to.Certificate, detcbor.Array(1, 1, unlock)), policy); !errors.Is(err, message.ErrForm) {
		t.Errorf("an unlock statement: %v", err)
	}
	// The signature is checked.
	forged := slices.Clone(signature)
	forged[len(forged)-1] ^= 1
	if _, err := message.Open(t.Context(), to, seal(t, to.Certificate, detcbor.Array(1, 1, forged)), policy); !errors.Is(err, message.ErrSender) {
		t.Errorf("a forged signature: %v", err)
	}
}

func ptr[T any](v T) *T { return &v }

func plain(content ...any) []byte { return detcbor.Array(1, 0, detcbor.Array(content...)) }

// seal encrypts any plaintext, by the sender of hpke_test.go.
func seal(t testing.TB, to devicecert.Certificate, plaintext []byte) []byte {
	t.Helper()
	skE, err := key(t, "ephemeral").ECDH()
	must(t, err)
	s := newSender(t, skE, to.Public.Point(), 2, message.Info(to))
	id := message.KeyIDOf(to.Public)
	return detcbor.Array(1, 1, id[:], s.enc, s.seal(message.AAD(message.SuiteP256, id, s.enc), plaintext))
}

// TestTampered: no bit of a message can be changed, and nothing added or taken away.
func TestTampered(t *testing.T) {
	t.Parallel()
	to := device(t, "device")
	raw, err := message.Seal(t.Context(), to.Certificate, newMessage(t, "hello"), newSoftware(t, "sender"))
	must(t, err)
	policy := message.Policy{Senders: []statement.PublicKey{newSoftware(t, "sender").public}}
	for i := range len(raw) * 8 {
		bad := slices.Clone(raw)
		bad[i/8] ^= 1 << (i % 8)
		_, err := message.Open(t.Context(), to, bad, policy)
		if !errors.Is(err, message.ErrForm) && !errors.Is(err, message.ErrRecipient) && !errors.Is(err, message.ErrOpen) {
			t.Fatalf("bit %d of byte %d: %v", i%8, i/8, err)
		}
	}
	for _, bad := range [][]byte{nil, raw[:len(raw)-1], append(slices.Clone(raw), 0), make([]byte, message.MaxSize+1)} {
		if _, err := message.Open(t.Context(), to, bad, policy); !errors.Is(err, message.ErrForm) {
			t.Errorf("%d bytes: %v", len(bad), err)
		}
	}
	// Points in other forms, and none.
	id := message.KeyIDOf(to.Certificate.Public)
	for name, enc := range map[string][]byte{
		"compressed": append([]byte{2}, to.Certificate.Public.Point()[1:33]...), "off the curve": append([]byte{4}, make([]byte, 64)...), "infinity": {0}, "none": {},
	} {
		if _, err := message.ParseHeader(detcbor.Array(1, 1, id[:], enc, make([]byte, 16))); !errors.Is(err, message.ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, bad := range map[string][]byte{
		"version": detcbor.Array(2, 1, id[:], to.Certificate.Public.Point(), make([]byte, 16)), "suite": detcbor.Array(1, 2, id[:], to.Certificate.Public.Point(), make([]byte, 16)),
		"key id": detcbor.Array(1, 1, id[1:], to.Certificate.Public.Point(), make([]byte, 16)), "ciphertext": detcbor.Array(1, 1, id[:], to.Certificate.Public.Point(), make([]byte, 15)),
	} {
		if _, err := message.ParseHeader(bad); !errors.Is(err, message.ErrForm) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestSealRefuses: what can't be sent.
func TestSealRefuses(t *testing.T) {
	t.Parallel()
	to := device(t, "device").Certificate
	key := newSoftware(t, "device").public
	unchecked, err := devicecert.Unverified(to.X509.Raw, dev)
	must(t, err)
	for name, c := range map[string]struct {
		to     devicecert.Certificate
		change func(*message.Message)
	}{
		"no certificate":      {devicecert.Certificate{}, nil},
		"an unchecked one":    {devicecert.Certificate(unchecked), nil},
		"one put together":    {devicecert.Certificate{Realm: to.Realm, Public: to.Public, Use: to.Use, X509: to.X509}, nil},
		"a signing key":       {certify(t, key, dev, keypackage.UseSignature), nil},
		"no id":               {to, func(m *message.Message) { m.ID = message.ID{} }},
		"too long":            {to, func(m *message.Message) { m.Body = make([]byte, message.MaxBody+1) }},
		"no content type":     {to, func(m *message.Message) { m.ContentType = "" }},
		"half a content type": {to, func(m *message.Message) { m.ContentType = "text/" }},
		"three parts":         {to, func(m *message.Message) { m.ContentType = "a/b/c" }},
		"a parameter":         {to, func(m *message.Message) { m.ContentType = "text/plain; charset=utf-8" }},
		"a newline":           {to, func(m *message.Message) { m.ContentType = "text/plain\n" }},
		"a long content type": {to, func(m *message.Message) { m.ContentType = "a/" + strings.Repeat("b", message.MaxContentType-1) }},
	} {
		m := newMessage(t, "hello")
		if c.change != nil {
			c.change(&m)
		}
		if raw, err := message.Seal(t.Context(), c.to, m, nil); err == nil || raw != nil {
			t.Errorf("%s: sealed", name)
		}
	}
}

// TestLargest: the longest message there can be fits.
func TestLargest(t *testing.T) {
	t.Parallel()
	to, from := device(t, "device"), newSoftware(t, "sender")
	m := newMessage(t, strings.Repeat("x", message.MaxBody))
	m.ContentType = "a/" + strings.Repeat("b", message.MaxContentType-2)
	raw, err := message.Seal(t.Context(), to.Certificate, m, from)
	must(t, err)
	got, err := message.Open(t.Context(), to, raw, message.Policy{Senders: []statement.PublicKey{from.public}})
	must(t, err)
	if len(raw) > message.MaxSize || !bytes.Equal(got.Body, m.Body) {
		t.Errorf("%d bytes", len(raw))
	}
}

// TestProperty: whatever is sent arrives.
func TestProperty(t *testing.T) {
	t.Parallel()
	to, from := device(t, "device"), newSoftware(t, "sender")
	rapid.Check(t, func(r *rapid.T) {
		m := newMessage(t, "")
		m.Body = rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(r, "body")
		m.ContentType = rapid.StringMatching(`[a-z0-9][a-z0-9!#$&^_.+-]{0,20}/[a-z][a-z0-9.+-]{0,20}`).Draw(r, "content type")
		var signer statement.Signer
		if rapid.Bool().Draw(r, "signed") {
			signer = from
		}
		raw, err := message.Seal(t.Context(), to.Certificate, m, signer)
		if err != nil {
			r.Fatal(err)
		}
		got, err := message.Open(t.Context(), to, raw, message.Policy{Anonymous: true, Senders: []statement.PublicKey{from.public}})
		if err != nil {
			r.Fatal(err)
		}
		if got.ID != m.ID || got.ContentType != m.ContentType || !bytes.Equal(got.Body, m.Body) || got.Sender.IsZero() == (signer != nil) {
			r.Fatalf("sent %+v, arrived %+v", m, got)
		}
	})
}
