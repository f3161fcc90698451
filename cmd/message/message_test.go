package main

import (
	"bytes"
	"context"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/statement"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"message": main}) }

const dev = identity.Development

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// key gives the key of a name: the same name gives the same key.
func key(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	d := sha256.Sum256([]byte("cmd/message test key " + name))
	k, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), d[:])
	must(t, err)
	return k
}

func public(t testing.TB, name string) statement.PublicKey {
	t.Helper()
	p, err := statement.FromECDSA(&key(t, name).PublicKey)
	must(t, err)
	return p
}

// agreer is a device's key, in memory.
type agreer struct{ private *ecdsa.PrivateKey }

func (a agreer) Agree(_ context.Context, peer []byte) ([]byte, error) {
	own, err := a.private.ECDH()
	if err != nil {
		return nil, err
	}
	p, err := ecdh.P256().NewPublicKey(peer)
	if err != nil {
		return nil, err
	}
	return own.ECDH(p)
}

func imei(t testing.TB, n int) identity.Identity {
	t.Helper()
	id, err := identity.ParseIMEI(fmt.Sprintf("00440245%06d", n))
	must(t, err)
	return id
}

func pair(i int, a keypackage.Algorithm, public statement.PublicKey) keypackage.Entry {
	return keypackage.Entry{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: fmt.Sprintf("pair-%d", i)}, Algorithm: a, Vouch: public.Point()}
}

// world is what the scripts work in: a device CA, and a registry with the records of ten chips.
type world struct {
	ca        *x509.Certificate
	authority *devicecert.Authority
	roots     *devicecert.Roots
	url       string
	certs     map[string][]byte // by name
}

func newWorld(t *testing.T) *world {
	t.Helper()
	signer := key(t, "ca")
	ca, err := devicecert.SelfSigned(dev, "Example Devices", signer)
	must(t, err)
	authority, err := devicecert.New(ca, signer)
	must(t, err)
	roots, err := devicecert.NewRoots(dev, ca)
	must(t, err)
	w := &world{ca: ca, authority: authority, roots: roots, certs: map[string][]byte{}}
	make := func(name string, a keypackage.Algorithm, record *identity.RecordID) []byte {
		der, err := authority.Certify(t.Context(), devicecert.Request{Realm: dev, Use: a.Use(), Public: public(t, name), Record: record, ProductLine: "phone-a"})
		must(t, err)
		w.certs[name] = der
		return der
	}
	of := func(n int) *identity.RecordID { r := registrytest.Chip(t, n).RecordID(); return &r }
	d := storetest.New(t)
	// recordOf gives the record of a chip whose manifest has these keys, each by name and algorithm.
	recordOf := func(n int, keys ...keypackage.Entry) registry.Record {
		t.Helper()
		manifest, err := keypackage.Manifest{Realm: dev, Identity: imei(t, n), ChipID: registrytest.Chip(t, n), Generation: 1, Entries: keys}.Encode()
		must(t, err)
		backup, err := keypackage.Backup{Manifest: manifest, Sealed: keypackage.Sealed{Ciphertext: bytes.Repeat([]byte{7}, 64)}}.Encode()
		must(t, err)
		claims, err := identity.Claims{Subject: imei(t, n), IssuedAt: 1_700_000_000, ChipID: registrytest.Chip(t, n), Realm: dev, Generation: 1, Manifest: sha256.Sum256(manifest)}.Encode()
		must(t, err)
		cert, err := identity.SignCertificate(t.Context(), registrytest.ROM(t), claims)
		must(t, err)
		return registry.Record{Certificate: cert.Bytes(), Backup: backup}
	}
	publish := func(n int, r registry.Record, x509 ...[]byte) {
		t.Helper()
		r.X509 = x509
		e, err := registry.Seal(rand.Reader, registrytest.Chip(t, n), registry.Entry{Realm: dev, Type: registry.Register, Generation: 1}, r)
		must(t, err)
		d.Append(e)
	}
	// put publishes a chip whose manifest has the keys of its certificates.
	put := func(n int, x509 ...[]byte) {
		t.Helper()
		var keys []keypackage.Entry
		for i, der := range x509 {
			if c, err := devicecert.Unverified(der, dev); err == nil { // the CA's is none
				keys = append(keys, pair(i, keypackage.Algorithms(c.Use)[0], c.Public))
			}
		}
		publish(n, recordOf(n, keys...), x509...)
	}
	put(1, make("sign-1", keypackage.ES256, of(1)), make("agree-1", keypackage.ECDH, of(1)), ca.Raw)
	put(2, make("agree-2", keypackage.ECDH, nil)) // made in advance
	put(3, make("sign-3", keypackage.ES256, of(3)))
	put(4, make("agree-4", keypackage.ECDH, of(5)))                                           // another device's
	put(5, make("agree-5", keypackage.ECDH, of(5)), make("agree-5b", keypackage.ECDH, of(5))) // two keys
	put(6, make("agree-6", keypackage.ECDH, of(6)))
	d.Append(registrytest.End(t, 6, 1, registry.Scrap, registrytest.ROM(t)))
	// What a mirror makes who knows a chip ID: a genuine identity certificate and backup, and the certificate of
	// another genuine device.
	genuine := recordOf(7, pair(0, keypackage.ECDH, public(t, "agree-7")))
	publish(7, genuine, make("agree-8", keypackage.ECDH, nil))
	named := func(name string, n int) []byte {
		der, err := authority.Certify(t.Context(), devicecert.Request{Realm: dev, Use: keypackage.UseAgreement, Public: public(t, name), Identity: imei(t, n), ProductLine: "phone-a"})
		must(t, err)
		w.certs[name] = der
		return der
	}
	publish(8, recordOf(8, pair(0, keypackage.ECDH, public(t, "agree-9"))), named("agree-9", 9)) // the key, another identity
	publish(9, recordOf(9, pair(0, keypackage.ES256, public(t, "agree-10"))), make("agree-10", keypackage.ECDH, nil))
	another := registrytest.Record(t, 10, 1, 600) // its hash of the manifest is another's
	another.Backup = genuine.Backup
	publish(10, another, make("agree-11", keypackage.ECDH, nil))
	open := func(n int, urn string, x509 ...[]byte) {
		b, err := registry.PublicCertificates{Identity: urn, X509: x509}.Encode()
		must(t, err)
		d.Append(registry.Entry{Realm: dev, Type: registry.Certificates, Record: registrytest.Chip(t, n).RecordID(), Generation: 1, Sealed: b})
	}
	open(2, "", w.certs["agree-2"])
	open(7, imei(t, 7).URN(), named("agree-7b", 8))
	h, err := registry.NewHandler(d.Reader(), registry.HandlerOptions{})
	must(t, err)
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	w.url = server.URL
	return w
}

func (w *world) files(t testing.TB) map[string][]byte {
	t.Helper()
	block := func(kind string, der []byte) []byte { return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}) }
	other, err := devicecert.SelfSigned(dev, "Example Devices", key(t, "another ca"))
	must(t, err)
	sender, err := x509.MarshalPKCS8PrivateKey(key(t, "sender"))
	must(t, err)
	files := map[string][]byte{
		"ca.pem": block("CERTIFICATE", w.ca.Raw), "other-ca.pem": block("CERTIFICATE", other.Raw),
		"cas.pem":     append(block("CERTIFICATE", other.Raw), block("CERTIFICATE", w.ca.Raw)...),
		"rom-key.pem": registrytest.ROM(t).Public().PEM(), "other-rom-key.pem": public(t, "x").PEM(),
		"letter.txt": []byte("come to the shop"),
		"sender.pem": block("PRIVATE KEY", sender), "sender-public.pem": public(t, "sender").PEM(),
	}
	for name, der := range w.certs {
		files[name+".pem"], files[name+".der"] = block("CERTIFICATE", der), der
	}
	for i := 1; i <= 11; i++ {
		files[fmt.Sprintf("chip-%d", i)] = []byte(hex.EncodeToString(registrytest.Chip(t, i).Bytes()) + "\n")
	}
	return files
}

// opens NAME FILE TEXT [sender] opens the message in FILE with the key of NAME: it says TEXT, and nobody signed it or
// sender did.
func (w *world) opens(t testing.TB) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		c, err := devicecert.Check(w.certs[args[0]], w.roots, devicecert.Want{})
		ts.Check(err)
		policy := message.Policy{Anonymous: true}
		if len(args) == 4 {
			policy = message.Policy{Senders: []statement.PublicKey{public(t, args[3])}}
		}
		o, err := message.Open(context.Background(), message.Recipient{Key: agreer{key(t, args[0])}, Certificate: c}, []byte(ts.ReadFile(args[1])), policy)
		ts.Check(err)
		if string(o.Body) != args[2] || o.ID == (message.ID{}) || o.Sender.IsZero() != (len(args) == 3) {
			ts.Fatalf("%q, by %s", o.Body, o.Sender)
		}
		ts.Logf("%s", o.ContentType)
	}
}

func TestScript(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	files := w.files(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			env.Setenv("URL", w.url)
			env.Setenv("RECORD1", registrytest.Chip(t, 1).RecordID().String())
			env.Setenv("RECORD2", registrytest.Chip(t, 2).RecordID().String())
			env.Setenv("RECORD7", registrytest.Chip(t, 7).RecordID().String())
			env.Setenv("CHIP1", hex.EncodeToString(registrytest.Chip(t, 1).Bytes()))
			env.Setenv("KEY1", message.KeyIDOf(public(t, "agree-1")).String())
			env.Setenv("SENDER", public(t, "sender").ID().String())
			for name, text := range files {
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), text, 0o400); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){"opens": w.opens(t)},
	})
}
