package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// line sets a place up with n devices on its delivery list, identities and a
// sequencer, and gives a station's certificate.
func line(t testing.TB, n int) (*place, []*device.Device, tls.Certificate) {
	t.Helper()
	sequencerAddress := freeAddress(t)
	p := newPlace(t, t.TempDir(), "https://"+sequencerAddress)
	p.setUp()
	var devices []*device.Device
	var chips []*chip.Software
	for range n {
		d, c := newDevice(t)
		must(t, d.WriteROM(t.Context(), p.publicKey("rom-key.pem")))
		devices, chips = append(devices, d), append(chips, c)
	}
	p.deliver("delivery.cose", "chip maker", chips...)
	p.run("spp", "chips", "import", "-c", "spp.yaml", "delivery.cose")
	p.write("imeis.csv", fmt.Appendf(nil, "00440200,000000,%06d\n", n))
	p.run("spp", "pool", "import", "-c", "spp.yaml", "--batch", "first", "--line", "phone", "imeis.csv")
	p.sequence(sequencerAddress)
	return p, devices, p.certify("line-1", "--kind", "station", "--line", "phone", "--tac", "00440200-00440299", "--quota", "100")
}

// refusalCode gives the code of a refusal, "" where the SPP did not refuse.
func refusalCode(err error) string {
	var e *connect.Error
	if !errors.As(err, &e) {
		return ""
	}
	for _, d := range e.Details() {
		if v, err := d.Value(); err == nil {
			if r, ok := v.(*provisioningrpc.Refusal); ok {
				return r.GetCode()
			}
		}
	}
	return ""
}

// TestStop: after SIGTERM the device in work is served to its end and no other
// is begun; a second SIGTERM ends the program at once; a kill loses nothing; and
// after each the next process goes on with what was in work.
func TestStop(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	const inWork = 3
	p, devices, station := line(t, inWork+20)
	// Signals take their time: a device that was begun before one arrived is in
	// work, so each try takes another.
	others := devices[inWork:]
	stopping := func(s *served) {
		t.Helper()
		for err := error(nil); refusalCode(err) != "stopping"; time.Sleep(50 * time.Millisecond) {
			if len(others) == 0 {
				t.Fatalf("a device was begun after SIGTERM, or refused with %v", err)
			}
			_, err = s.begin(ctx, others[0])
			others = others[1:]
		}
	}

	s := p.serve(station)
	begun, err := s.begin(ctx, devices[0])
	must(t, err)
	s.signal(syscall.SIGTERM)
	stopping(s)
	must(t, s.finish(ctx, devices[0], begun))
	ended := time.Now()
	if err := s.wait(); err != nil {
		t.Errorf("a drained program ended with %v:\n%s", err, s.log)
	}
	// The drain is 20 s; it ends with the last device, or ten seconds after one
	// that was begun and left.
	if took := time.Since(ended); took > 18*time.Second {
		t.Errorf("it ended %s after the last device", took)
	}

	s = p.serve(station)
	begun, err = s.begin(ctx, devices[1])
	must(t, err)
	s.signal(syscall.SIGTERM)
	stopping(s)
	s.signal(syscall.SIGTERM)
	var exit *exec.ExitError
	if err := s.wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGTERM {
		t.Errorf("a second SIGTERM ended it with %v", err)
	}

	s = p.serve(station)
	must(t, s.finish(ctx, devices[1], begun))
	begun, err = s.begin(ctx, devices[2])
	must(t, err)
	s.signal(syscall.SIGKILL)
	_ = s.wait() // it was killed
	killed := time.Now()
	s = p.serve(station)
	healthy := time.Since(killed)
	must(t, s.finish(ctx, devices[2], begun))
	t.Logf("healthy %s after the kill, the device in work shipped after %s", healthy, time.Since(killed))
	s.stop()
}

// TestStationCertificates: the program's own TLS hangs up on who shows no
// certificate of the station CA, and a revoked station is told.
func TestStationCertificates(t *testing.T) {
	t.Parallel()
	p, _, station := line(t, 1)
	s := p.serve(station)
	defer s.stop()
	call := func(c ...tls.Certificate) error {
		transport := &http.Transport{ForceAttemptHTTP2: true, TLSClientConfig: &tls.Config{RootCAs: p.ca(), Certificates: c}}
		defer transport.CloseIdleConnections()
		ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := provisioningrpc.NewAssemblyServiceClient(&http.Client{Transport: transport}, "https://"+p.listen).Modules(ctx, connect.NewRequest(&provisioningrpc.ModulesRequest{}))
		return err
	}
	leaf, err := x509.ParseCertificate(station.Certificate[0])
	must(t, err)
	must(t, call(station))
	if err := call(); err == nil || refusalCode(err) != "" {
		t.Errorf("without a certificate: %v", err)
	}
	if err := call(selfSigned(t, leaf.URIs[0])); err == nil || refusalCode(err) != "" {
		t.Errorf("with a certificate of nobody's: %v", err)
	}
	p.run("spp", "station", "revoke", "-c", "spp.yaml", "line-1", "--reason", "stolen", "--operator", "alice")
	if err := call(station); refusalCode(err) != "station-revoked" {
		t.Errorf("revoked: %v", err)
	}
}

func selfSigned(t testing.TB, uri *url.URL) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), URIs: []*url.URL{uri}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}
