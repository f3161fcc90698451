package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/softhsm"
)

// rolling is a whole plant whose device CA rolls over.
type rolling struct {
	*testing.T
	*plant.Plant
}

// TestRoll: keys wait in the pool with certificates of the old device CA; it rolls over, and more are made. Devices of
// both are assembled after that, and everybody who has the file of roots takes both: the device service, senders of
// messages, openssl. With the old roots alone the new ones are refused.
func TestRoll(t *testing.T) {
	t.Parallel()
	if _, err := softhsm.Module(); err != nil {
		softhsm.New(t) // skips, or fails in CI
	}
	built := programs.Build(t, "", "custodian", "spp", "sequencer", "registry", "deviceservice", "station", "device", "message")
	p, err := plant.New(t.Context(), plant.Config{Dir: filepath.Join(t.TempDir(), "plant"), Programs: built, Name: "test", Devices: 2, Pairs: "pool", Service: true})
	r := rolling{t, p}
	r.must(err)
	t.Cleanup(func() { r.must(p.Stop()) })
	ctx := t.Context()
	r.must(p.StartPostgres(ctx))
	r.must(p.SetUp(ctx))
	list, names, err := p.CreateDevices(ctx, "station", 2)
	r.must(err)
	r.must(p.ImportChips(ctx, list))
	_, _, err = p.ImportIdentities(ctx)
	r.must(err)
	r.advance(ctx) // of the first identity, under the old CA

	_, err = p.Run(ctx, p.With("custodian", "spp"), nil, "device-ca", "--config", p.Etc("custodian.yaml"), "2")
	r.must(err)
	r.replace("deviceservice.yaml", "device-ca.pem", "device-cas-2.pem") // verifiers first
	r.replace("spp.yaml", "device-ca.pem", "device-ca-2.pem")
	r.advance(ctx) // of the next identity, under the new one

	r.must(p.ServeAll(ctx))
	r.must(p.ServeService(ctx))
	_, err = p.Run(ctx, p.With("station", "station"), nil, append([]string{"run", "--config", p.Etc("station.yaml")}, names...)...)
	r.must(err)
	old, roots := p.Public("device-ca.pem"), p.Public("device-cas-2.pem")
	issuers := map[string]bool{}
	for _, name := range names {
		var booted struct {
			Identity string `json:"identity"`
		}
		r.must(p.Ask(ctx, p.With("device", "station"), &booted, "boot", "--devices", p.Fixtures("station"), name))
		issuer := r.verify(ctx, booted.Identity, roots, old)
		issuers[issuer] = true
		r.talk(ctx, name)
		r.write(ctx, name, booted.Identity, roots, old, strings.Contains(issuer, "version 2"))
	}
	if len(issuers) != 2 {
		t.Errorf("the devices' certificates are of %v, one of each CA is expected", issuers)
	}

	// A certificate of no key of the token is refused, with what to do.
	r.replace("spp.yaml", "device-ca-2.pem", "station-ca.pem")
	res, err := p.Run(ctx, p.With("spp", "spp"), []int{console.ExitFailed}, "pool", "generate", "--config", p.Etc("spp.yaml"), "--line", plant.ProductLine, "--operator", "test")
	if err != nil || !strings.Contains(res.Errs, "is of none of the token's 2 versions of the device CA") || !strings.Contains(res.Errs, "next: name the certificate that custodian published") {
		t.Errorf("another CA's certificate: %v, %s", err, res.Errs)
	}
}

func (r rolling) must(err error) {
	r.Helper()
	if err != nil {
		r.Fatal(err)
	}
}

// advance makes the two keys of one identity in advance.
func (r rolling) advance(ctx context.Context) {
	r.Helper()
	n, err := r.MakeKeysInAdvance(ctx, 1)
	if err != nil || n != 2 {
		r.Fatalf("%d keys were made, %v", n, err)
	}
}

// replace changes a configuration, as an operator does.
func (r rolling) replace(file, old, now string) {
	r.Helper()
	text, err := os.ReadFile(r.Etc(file))
	r.must(err)
	changed := strings.Replace(string(text), "public/"+old, "public/"+now, 1)
	if changed == string(text) {
		r.Fatalf("%s names no %s", file, old)
	}
	r.must(os.WriteFile(r.Etc(file), []byte(changed), 0o600))
}

// soonTime bounds the wait for what follows a device's own entry by a moment.
const soonTime = 30 * time.Second

// soon runs a command again while it is refused.
func (r rolling) soon(ctx context.Context, g plant.Program, args ...string) {
	r.Helper()
	for end := time.Now().Add(soonTime); ; time.Sleep(200 * time.Millisecond) {
		res, err := r.Plant.Run(ctx, g, []int{console.ExitRefused, console.ExitFailed}, args...)
		r.must(err)
		if res.Code == 0 {
			return
		}
		if time.Now().After(end) {
			r.Fatalf("%v: %s", args, res.Errs)
		}
	}
}

// verify fetches a device's certificates from the directory and has openssl verify each under the roots. It gives
// their issuer.
func (r rolling) verify(ctx context.Context, identity, roots, old string) string {
	r.Helper()
	out := filepath.Join(r.Dir, identity+".pem")
	r.soon(ctx, r.With("registry", ""), "certificates", "--url", "http://"+r.Address("registry"), "--realm", "development", "--ca", roots, "--identity", identity, "--out", out)
	text, err := os.ReadFile(out)
	r.must(err)
	issuer := ""
	for n := 0; len(text) > 0; n++ {
		block, rest := pem.Decode(text)
		cert, err := x509.ParseCertificate(block.Bytes)
		r.must(err)
		one := filepath.Join(r.Dir, "one.pem")
		r.must(os.WriteFile(one, pem.EncodeToMemory(block), 0o600))
		if said, err := exec.CommandContext(ctx, "openssl", "verify", "-CAfile", roots, one).CombinedOutput(); err != nil {
			r.Errorf("openssl verify: %v\n%s", err, said)
		}
		isNew := strings.Contains(cert.Issuer.String(), "version 2")
		if err := exec.CommandContext(ctx, "openssl", "verify", "-CAfile", old, one).Run(); (err != nil) != isNew {
			r.Errorf("under the old CA alone openssl gives %v for a certificate of %s", err, cert.Issuer)
		}
		if n > 0 && issuer != cert.Issuer.String() {
			r.Errorf("one device's certificates are of %s and %s", issuer, cert.Issuer)
		}
		issuer, text = cert.Issuer.String(), rest
	}
	return issuer
}

// talk has a device open a channel with its certificate.
func (r rolling) talk(ctx context.Context, name string) {
	r.Helper()
	r.soon(ctx, r.With("device", "station"), "channel", "open", "--devices", r.Fixtures("station"), name, "status", "--service", r.Address("deviceservice"),
		"--suite", "certificate", "--ca", r.Public("station-ca.pem"), "--registry", "http://"+r.Address("registry"))
}

// write has somebody write to a device, who has the roots; with the old ones alone only devices of before are found.
func (r rolling) write(ctx context.Context, name, identity, roots, old string, isNew bool) {
	r.Helper()
	plain, sealed := filepath.Join(r.Dir, "letter.txt"), filepath.Join(r.Dir, name+".msg")
	r.must(os.WriteFile(plain, []byte("rolled"), 0o600))
	send := func(ca, out string) plant.Result {
		res, err := r.Plant.Run(ctx, r.With("message", ""), []int{console.ExitFailed, console.ExitRefused}, "sendto", "--realm", "development", "--ca", ca, "--registry", "http://"+r.Address("registry"),
			"--identity", identity, "--content-type", "text/plain", "--in", plain, "--out", out)
		r.must(err)
		return res
	}
	if res := send(roots, sealed); res.Code != 0 {
		r.Fatalf("message sendto: %s", res.Errs)
	}
	var got struct {
		Body []byte `json:"body"`
	}
	r.must(r.Ask(ctx, r.With("device", "station"), &got, "message", "open", "--devices", r.Fixtures("station"), name, sealed,
		"--registry", "http://"+r.Address("registry"), "--ca", roots, "--anonymous"))
	if string(got.Body) != "rolled" {
		r.Errorf("the device reads %q", got.Body)
	}
	if res := send(old, sealed+".old"); (res.Code != 0) != isNew {
		r.Errorf("with the old roots alone message sendto ends with %d: %s", res.Code, res.Errs)
	}
}
