package deviceservice_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/statement"
)

// highest keeps the highest of all that come.
func highest(n int64, most *atomic.Int64) {
	for m := most.Load(); n > m && !most.CompareAndSwap(m, n); m = most.Load() {
	}
}

// slow is a database, HSM and registry that take their time for each call, in memory: so that a test sees what takes time by
// design, on whatever machine. It counts the keys that stand in its HSM.
type slow struct {
	call time.Duration // of each

	devices       map[identity.Identity]issued.Device
	list          map[identity.RecordID][][]byte
	blob          chan struct{} // WrappedKeys.Key waits for it, if it is there
	at, most      atomic.Int64  // keys in the HSM now, and most at once
	keys, lookups atomic.Int64
}

func (s *slow) Lookup(_ context.Context, id identity.Identity) (issued.Device, error) {
	s.lookups.Add(1)
	d, ok := s.devices[id]
	if !ok {
		return d, issued.ErrNotIssued
	}
	return d, nil
}

func (s *slow) DeviceKey(_ context.Context, _ keypackage.KeyID, context []byte) (keypackage.MACKey, error) {
	s.keys.Add(1)
	highest(s.at.Add(1), &s.most)
	time.Sleep(s.call)
	return &slowKey{s: s, key: context}, nil
}

func (s *slow) Unwrap(ctx context.Context, label string, _ []byte) (keypackage.MACKey, error) {
	return s.DeviceKey(ctx, keypackage.KeyID{}, []byte(label))
}

func (s *slow) Key(ctx context.Context, _ identity.RecordID, _ identity.Generation, _ string) ([]byte, error) {
	if s.blob != nil {
		select {
		case <-s.blob:
		case <-ctx.Done():
		}
	}
	return []byte("blob"), nil
}

func (s *slow) Certificates(_ context.Context, record identity.RecordID) (identity.Generation, [][]byte, error) {
	time.Sleep(4 * s.call) // as long as a key's whole life
	return 1, s.list[record], nil
}

// slowKey is HMAC under whatever the key was made of.
type slowKey struct {
	s   *slow
	key []byte
	end sync.Once
}

func (k *slowKey) mac(msg []byte) []byte {
	m := hmac.New(sha256.New, k.key)
	m.Write(msg)
	return m.Sum(nil)
}

func (k *slowKey) MAC(_ context.Context, msg []byte) ([]byte, error) {
	time.Sleep(k.s.call)
	return k.mac(msg), nil
}

func (k *slowKey) Verify(_ context.Context, msg, mac []byte) error {
	time.Sleep(k.s.call)
	if !hmac.Equal(k.mac(msg), mac) {
		return statement.ErrSignature
	}
	return nil
}

func (k *slowKey) Destroy(context.Context) error {
	k.end.Do(func() {
		time.Sleep(k.s.call)
		k.s.at.Add(-1)
	})
	return nil
}

// bench is a service on slow parts, in all three suites.
type bench struct {
	*plant
	slow    *slow
	devices ca
	ca      *x509.CertPool // of the service
}

const slowDevices = 40

func newBench(t testing.TB, call time.Duration, change func(*deviceservice.Options)) *bench {
	t.Helper()
	b := &bench{slow: &slow{call: call, devices: map[identity.Identity]issued.Device{}, list: map[identity.RecordID][][]byte{}}, devices: newCA(t), ca: x509.NewCertPool()}
	states := map[int]records.State{2: records.Quarantined, 3: records.Scrapped, 4: records.Burned}
	for n := range slowDevices {
		state := states[n]
		if state == "" {
			state = records.Shipped
		}
		g := identity.Generation(1)
		if n == 5 {
			g = 2 // generation 1 was superseded
		}
		d := issuedtest.Device(t, n, g, state)
		b.slow.devices[d.Identity] = d
	}
	own := newKey(t)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "service"}, DNSNames: []string{"service.example"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, own.Public(), own)
	must(t, err)
	cert, err := x509.ParseCertificate(der)
	must(t, err)
	b.ca.AddCert(cert)
	cas := x509.NewCertPool()
	cas.AddCert(b.devices.cert)
	o := deviceservice.Options{
		Realm: dev, Entries: []string{"channel"}, Ways: []deviceservice.Way{deviceservice.Derived, deviceservice.Fetched, deviceservice.Certificate},
		Issued: b.slow, Keys: b.slow, WrappedKeys: b.slow, Certificates: b.slow, Roots: b.devices.roots,
		Channel: channel.ServiceConfig{TLS: &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: own}}, ClientCAs: cas}},
	}
	if change != nil {
		change(&o)
	}
	b.plant = &plant{t: t, stopped: make(chan error, 1)}
	b.start(o)
	return b
}

// device gives what generation 1 of device n comes with in a suite. Without a record its certificate is a stranger's.
func (b *bench) device(suite channel.Suite, n int) channel.DeviceConfig {
	b.t.Helper()
	id := issuedtest.IMEI(b.t, n)
	record := issuedtest.Chip(b.t, n).RecordID()
	key := &slowKey{s: &slow{}, key: keypackage.DeviceKeyContext(dev, channelKey, id, 1, record)}
	d := channel.DeviceConfig{Hello: channel.Hello{Suite: suite, Realm: dev, Key: channelKey, Identity: id, Generation: 1}, MAC: key.MAC,
		TLS: &tls.Config{RootCAs: b.ca, ServerName: "service.example"}}
	if suite == channel.SuiteCertificate {
		pair := newKey(b.t)
		cert := b.devices.certify(b.t, pair.Public(), devicecert.Request{Record: &record})
		d.MAC, d.TLS.Certificates = nil, []tls.Certificate{{Certificate: [][]byte{cert.Raw}, PrivateKey: pair}}
		b.slow.list[record] = append(b.slow.list[record], cert.Raw)
		if known, ok := b.slow.devices[id]; ok {
			known.Certificates += issued.CertificatesOf(cert.Raw)
			b.slow.devices[id] = known
		}
	}
	return d
}

// answered opens a channel and tells how long it took until the device had its answer.
func (b *bench) answered(d channel.DeviceConfig) (time.Duration, error) {
	b.t.Helper()
	conn, err := net.Dial("tcp", b.addr)
	must(b.t, err)
	defer conn.Close()
	ctx, cancel := context.WithTimeout(b.t.Context(), bound)
	defer cancel()
	began := time.Now()
	_, err = client.Open(ctx, conn, d)
	return time.Since(began), err
}

// TestRefusedInTime: in each suite, a refusal for whatever reason says the same and takes as long as an admission, though the HSM, and the
// registry of suite 3, take their time for a device alone. By design both take a whole key's life; a refusal that didn't
// wait for some part of it would be one or more of its calls shorter.
func TestRefusedInTime(t *testing.T) {
	t.Parallel()
	const call, rounds = 60 * time.Millisecond, 4
	// Of a key's life: derived, used once or twice, destroyed; of suite 3 what the registry takes.
	calls := map[channel.Suite]time.Duration{channel.SuiteNoise: 3, channel.SuiteTLS: 4, channel.SuiteCertificate: 4}
	wrong := func(context.Context, []byte) ([]byte, error) { return bytes.Repeat([]byte{1}, 32), nil }
	for _, suite := range []channel.Suite{channel.SuiteNoise, channel.SuiteTLS, channel.SuiteCertificate} {
		t.Run(suite.String(), func(t *testing.T) {
			t.Parallel()
			b := newBench(t, call, nil)
			in := b.device(suite, 1)
			kinds := map[string]channel.DeviceConfig{"let in": in}
			for name, n := range map[string]int{"quarantined": 2, "scrapped": 3, "burned": 4, "superseded": 5, "never issued": slowDevices + 1} {
				kinds[name] = b.device(suite, n)
			}
			ahead := b.device(suite, 6)
			ahead.Hello.Generation = 2
			realm := b.device(suite, 7)
			realm.Hello.Realm = identity.Production
			kinds["generation to come"], kinds["realm"] = ahead, realm
			switch suite {
			case channel.SuiteCertificate:
				d := b.device(suite, 8)
				d.Hello.Identity = issuedtest.IMEI(t, 9)
				kinds["another's certificate"] = d
				d = b.device(suite, 10)
				b.slow.list[issuedtest.Chip(t, 10).RecordID()] = nil
				kinds["not listed"] = d
			default:
				d := b.device(suite, 8)
				d.MAC = wrong
				kinds["wrong key"] = d
				d = b.device(suite, 9)
				d.Hello.Key.Version = 2
				kinds["master key version"] = d
				d = b.device(suite, 10)
				d.Hello.Key.Name = "charge1"
				kinds["key of another purpose"] = d
			}
			if _, err := b.answered(in); err != nil { // the first one that the pace knows
				t.Fatal(err)
			}
			// measure gives the shortest time of each kind: load only adds to it.
			told := ""
			measure := func() map[string]time.Duration {
				took := map[string]time.Duration{}
				for range rounds {
					for name, d := range kinds {
						one, err := b.answered(d)
						if (err == nil) != (name == "let in") || err != nil && !errors.Is(err, channel.ErrRefused) {
							t.Fatalf("%s: %v", name, err)
						}
						if have, ok := took[name]; !ok || one < have {
							took[name] = one
						}
						if err == nil {
							continue
						}
						if told == "" {
							told = err.Error()
						}
						if err.Error() != told {
							t.Errorf("%s is told %q, others %q", name, err, told)
						}
					}
				}
				return took
			}
			// What isn't waited for is missing each time; what a loaded machine does to one measurement isn't.
			var unlike []string
			for range 4 {
				took := measure()
				have := took["let in"]
				if life := calls[suite] * call; have < life {
					t.Errorf("a device is let in after %s: its key's life alone takes %s", have, life)
				}
				unlike = nil
				for name, one := range took {
					if one < have-call/2 || one > have+call/2 {
						unlike = append(unlike, fmt.Sprintf("%s takes %s, to be let in %s", name, one, have))
					}
				}
				if len(unlike) == 0 {
					t.Logf("let in after %s, never issued %s", have, took["never issued"])
					return
				}
			}
			t.Errorf("in four measurements: %s", strings.Join(unlike, "; "))
		})
	}
}

// TestRefusedInQueue: where those who were issued queue for the HSM, strangers wait as long.
func TestRefusedInQueue(t *testing.T) {
	t.Parallel()
	const call, queue = 50 * time.Millisecond, 6
	b := newBench(t, call, func(o *deviceservice.Options) { o.KeysAtOnce = 1 })
	var group sync.WaitGroup
	var slowest atomic.Int64
	for n := range queue {
		d := b.device(channel.SuiteNoise, 10+n)
		group.Go(func() {
			took, err := b.answered(d)
			if err != nil {
				t.Error(err)
			}
			highest(int64(took), &slowest)
		})
	}
	group.Wait()
	last := time.Duration(slowest.Load())
	took, err := b.answered(b.device(channel.SuiteNoise, slowDevices+1))
	if err == nil || took < queue*3*call {
		t.Errorf("a stranger has its answer after %s (%v), the last in the queue had it after %s", took, err, last)
	}
	if n := b.slow.most.Load(); n != 1 {
		t.Errorf("%d keys stood in the HSM at once", n)
	}
}

// TestKeysAtOnce: no more keys stand in the HSM than may, from the derivation to the destruction, in both suites; and one
// that waits for the database holds no turn there.
func TestKeysAtOnce(t *testing.T) {
	t.Parallel()
	const atOnce = 2
	b := newBench(t, 10*time.Millisecond, func(o *deviceservice.Options) { o.KeysAtOnce = atOnce })
	b.slow.blob = make(chan struct{})
	var group sync.WaitGroup
	for n := range atOnce + 1 { // more than there are turns wait for the database
		d := b.device(channel.SuiteNoise, 20+n)
		d.Hello.Key = keypackage.KeyID{Name: "channel"}
		label := deviceservice.KeyLabel(issuedtest.Chip(t, 20+n).RecordID(), 1, "channel")
		d.MAC = (&slowKey{s: &slow{}, key: []byte(label)}).MAC
		group.Go(func() {
			if _, err := b.answered(d); err != nil {
				t.Errorf("fetched: %v", err)
			}
		})
	}
	await(t, "they have been looked up", func() bool { return b.slow.lookups.Load() == atOnce+1 })
	for i, suite := range []channel.Suite{channel.SuiteNoise, channel.SuiteTLS} {
		for n := range 8 {
			d := b.device(suite, 6+8*i+n%4)
			group.Go(func() {
				if _, err := b.answered(d); err != nil {
					t.Error(fmt.Errorf("%s: %w", suite, err))
				}
			})
		}
	}
	await(t, "the others went by", func() bool { return b.slow.keys.Load() == 16 && b.slow.at.Load() == 0 })
	close(b.slow.blob)
	group.Wait()
	if n := b.slow.most.Load(); n != atOnce {
		t.Errorf("%d keys stood in the HSM at once, %d may", n, atOnce)
	}
}

// slowSigner is a key that counts how often it is used at once.
type slowSigner struct {
	*ecdsa.PrivateKey
	at, most *atomic.Int64
}

func (s slowSigner) Sign(r io.Reader, digest []byte, o crypto.SignerOpts) ([]byte, error) {
	highest(s.at.Add(1), s.most)
	defer s.at.Add(-1)
	time.Sleep(30 * time.Millisecond)
	return s.PrivateKey.Sign(r, digest, o)
}

// TestSignaturesAtOnce: strangers' handshakes of TLS have the HSM sign no more at once than may.
func TestSignaturesAtOnce(t *testing.T) {
	t.Parallel()
	var at, most atomic.Int64
	b := newBench(t, 0, func(o *deviceservice.Options) {
		o.KeysAtOnce = 3 // so 2 signatures
		o.Channel.TLS.Certificates[0].PrivateKey = slowSigner{o.Channel.TLS.Certificates[0].PrivateKey.(*ecdsa.PrivateKey), &at, &most}
	})
	var group sync.WaitGroup
	for n := range 8 {
		d := b.device(channel.SuiteTLS, slowDevices+n)
		group.Go(func() {
			if _, err := b.answered(d); err == nil {
				t.Error("a stranger is let in")
			}
		})
	}
	group.Wait()
	if n := most.Load(); n < 1 || n > 2 {
		t.Errorf("%d signatures at once", n)
	}
}
