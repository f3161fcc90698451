package statement_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"encoding/asn1"

	"github.com/veraison/go-cose"

	"github.com/devicekeys/devicekeys/statement"
	"github.com/devicekeys/devicekeys/untested"
)

// softwareSigner signs with a key in this process, as no product does.
type softwareSigner struct{ key *ecdsa.PrivateKey }

func (s softwareSigner) Public() statement.PublicKey {
	k, err := statement.FromECDSA(&s.key.PublicKey)
	if err != nil {
		panic(err)
	}
	return k
}

func (s softwareSigner) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	r, v, err := ecdsa.Sign(rand.Reader, s.key, digest)
	if err != nil {
		return nil, err
	}
	return append(r.FillBytes(make([]byte, 32)), v.FillBytes(make([]byte, 32))...), nil
}

func newSigner(t testing.TB) softwareSigner {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return softwareSigner{k}
}

func TestSignOpen(t *testing.T) {
	t.Parallel()
	s, other := newSigner(t), newSigner(t)
	payload := []byte("what is said")
	raw, err := statement.Sign(t.Context(), s, statement.Unlock, payload)
	if err != nil {
		t.Fatal(err)
	}
	got, err := statement.Open(raw, statement.Unlock, s.Public(), statement.MaxSize)
	if err != nil || !bytes.Equal(got, payload) {
		t.Fatalf("open: %q, %v", got, err)
	}
	if _, id, err := statement.Unverified(raw, statement.Unlock, statement.MaxSize); err != nil || id != s.Public().ID() {
		t.Fatalf("unverified: key %s, %v", id, err)
	}
	if _, err := statement.Open(raw, statement.Registry, s.Public(), statement.MaxSize); !errors.Is(err, statement.ErrForm) {
		t.Errorf("a statement passes for one of another type: %v", err)
	}
	if _, err := statement.Open(raw, statement.Unlock, other.Public(), statement.MaxSize); !errors.Is(err, statement.ErrForm) {
		t.Errorf("a statement passes for one by another key: %v", err)
	}
	if _, err := statement.Open(raw, statement.Unlock, s.Public(), len(raw)-1); !errors.Is(err, statement.ErrForm) {
		t.Errorf("over the limit: %v", err)
	}
	for i := range raw {
		for bit := range 8 {
			bad := bytes.Clone(raw)
			bad[i] ^= 1 << bit
			if _, err := statement.Open(bad, statement.Unlock, s.Public(), statement.MaxSize); err == nil {
				t.Fatalf("bit %d of byte %d flipped, and it still opens", bit, i)
			}
		}
	}
}

// A library that is not ours reads what we write.
func TestGoCOSEReads(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	raw, err := statement.Sign(t.Context(), s, statement.IdentityCertificate, []byte{0xa0})
	if err != nil {
		t.Fatal(err)
	}
	var msg cose.Sign1Message
	if err := msg.UnmarshalCBOR(raw); err != nil {
		t.Fatal(err)
	}
	v, err := cose.NewVerifier(cose.AlgorithmES256, &s.key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if err := msg.Verify(nil, v); err != nil {
		t.Fatal(err)
	}
	if again, err := msg.MarshalCBOR(); err != nil || !bytes.Equal(again, raw) {
		t.Fatalf("go-cose writes %x, we wrote %x (%v)", again, raw, err)
	}
}

// The auditor's way, with no CBOR tool at all.
func TestOpenSSLVerifies(t *testing.T) {
	t.Parallel()
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		untested.Skip(t, "signatures by openssl: it is not installed")
	}
	s := newSigner(t)
	payload := []byte("claims")
	raw, err := statement.Sign(t.Context(), s, statement.IdentityCertificate, payload)
	if err != nil {
		t.Fatal(err)
	}
	tbs, err := statement.ToBeSigned(statement.IdentityCertificate, s.Public(), payload)
	if err != nil {
		t.Fatal(err)
	}
	sig := raw[len(raw)-64:]
	der, err := asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(sig[:32]), new(big.Int).SetBytes(sig[32:])})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	verify := func(tbs []byte) ([]byte, error) {
		for name, b := range map[string][]byte{"tbs.bin": tbs, "sig.der": der, "pub.pem": s.Public().PEM()} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		cmd := exec.Command(openssl, "dgst", "-sha256", "-verify", "pub.pem", "-signature", "sig.der", "tbs.bin")
		cmd.Dir = dir
		return cmd.CombinedOutput()
	}
	if out, err := verify(tbs); err != nil {
		t.Fatalf("openssl: %v\n%s", err, out)
	}
	if out, err := verify(append(tbs, 0)); err == nil {
		t.Fatalf("openssl accepts a longer text: %s", out)
	}
}

func TestPublicKey(t *testing.T) {
	t.Parallel()
	s := newSigner(t)
	k := s.Public()
	again, err := statement.ParsePEM(k.PEM())
	if err != nil || again != k {
		t.Fatalf("PEM round trip: %v", err)
	}
	p := k.Point()
	compressed := append([]byte{2 + p[64]&1}, p[1:33]...)
	offCurve := bytes.Clone(p)
	offCurve[64] ^= 1
	for name, b := range map[string][]byte{
		"compressed": compressed, "off the curve": offCurve, "infinity": {0}, "empty": nil, "too long": append(bytes.Clone(p), 0),
		"hybrid": append([]byte{6}, p[1:]...),
	} {
		if _, err := statement.ParsePoint(b); err == nil {
			t.Errorf("%s point is accepted", name)
		}
	}
}
