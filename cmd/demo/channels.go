package main

import (
	"cmp"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
)

// keysInAdvance has the SPP's HSM make the devices' key pairs before they come.
func (d *demo) keysInAdvance(ctx context.Context) (string, error) {
	keys, err := d.MakeKeysInAdvance(ctx, len(d.names))
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%d key pairs, wrapped in the pool", keys), nil
}

// Suite is one way of opening channels.
type Suite struct {
	Suite    string  `json:"suite"`
	Channels int     `json:"channels"`
	P50      float64 `json:"handshake_p50_ms"`
}

// channels has devices open channels to the maker's device service: one whose
// flash was lost, one that never lost it, one of a second generation.
func (d *demo) channels(ctx context.Context) (string, error) {
	var said []string
	total := 0
	for _, suite := range []string{"noise", "tls", "certificate"} {
		var times []float64
		for _, i := range []int{lost, other, reprovided} {
			var r struct {
				Answer       string  `json:"answer"`
				Milliseconds float64 `json:"handshake_ms"`
			}
			args := append([]string{"channel", "open", "--devices", d.Fixtures("station"), d.names[i], "status", "--service", d.Address("deviceservice"), "--suite", suite},
				"--ca", d.Public("station-ca.pem"), "--registry", "http://"+d.Address("registry"))
			if err := d.askSoon(ctx, &r, args...); err != nil {
				return "", err
			}
			if !strings.HasSuffix(r.Answer, ", active") {
				return "", fmt.Errorf("device %s is told %q", d.names[i], r.Answer)
			}
			times = append(times, r.Milliseconds)
		}
		slices.SortFunc(times, cmp.Compare[float64])
		d.report.Suites = append(d.report.Suites, Suite{Suite: suite, Channels: len(times), P50: times[len(times)/2]})
		total += len(times)
		said = append(said, suite)
	}
	return fmt.Sprintf("%d channels: %s", total, strings.Join(said, ", ")), nil
}

// Certificates follow the device's own entry by a moment, and the service uses an
// answer of the registry again for some seconds.
const (
	soonTries = 20
	soonPause = 500 * time.Millisecond
)

// askSoon asks a device, and again while it is refused.
func (d *demo) askSoon(ctx context.Context, into any, args ...string) error {
	for try := 1; ; try++ {
		r, err := d.Run(ctx, d.With("device", "station"), []int{console.ExitRefused}, append(args, "--json")...)
		if err != nil {
			return err
		}
		if r.Code == 0 {
			return json.Unmarshal(r.Out, into)
		}
		if try == soonTries {
			return fmt.Errorf("the device service refuses still: %s", r.Errs)
		}
		select {
		case <-time.After(soonPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// letter has somebody who knows a device's IMEI, and the maker's device CA, write
// to it. Another device can't read it.
func (d *demo) letter(ctx context.Context) (string, error) {
	imei, err := d.bootDevice(ctx, d.names[lost])
	if err != nil {
		return "", err
	}
	const text = "meet me at the registry"
	plain, sealed := filepath.Join(d.Dir, "letter.txt"), filepath.Join(d.Dir, "letter.msg")
	if err := os.WriteFile(plain, []byte(text), 0o600); err != nil {
		return "", err
	}
	registry := "http://" + d.Address("registry")
	if _, err := d.Run(ctx, d.With("message", ""), nil, "sendto", "--realm", "development", "--ca", d.Public("device-ca.pem"), "--registry", registry,
		"--identity", imei, "--content-type", "text/plain", "--in", plain, "--out", sealed); err != nil {
		return "", err
	}
	open := func(name string) []string {
		return []string{"message", "open", "--devices", d.Fixtures("station"), name, sealed, "--registry", registry, "--ca", d.Public("device-ca.pem"), "--anonymous"}
	}
	var got struct {
		Body []byte `json:"body"`
	}
	if err := d.Ask(ctx, d.With("device", "station"), &got, open(d.names[lost])...); err != nil {
		return "", err
	}
	if string(got.Body) != text {
		return "", fmt.Errorf("the device reads %q", got.Body)
	}
	r, err := d.Run(ctx, d.With("device", "station"), []int{console.ExitRefused}, open(d.names[other])...)
	if err != nil {
		return "", err
	}
	// It is refused for the reason that it is another's, or the demo shows nothing.
	refusal := Refusal{Case: "another device's message", Refused: r.Code == console.ExitRefused, Reason: "not-for-it"}
	if refusal.Refused && !strings.Contains(r.Errs, message.ErrRecipient.Error()) {
		refusal.Refused, refusal.Reason = false, strings.TrimSpace(r.Errs)
	}
	d.report.Refusals = append(d.report.Refusals, refusal)
	return fmt.Sprintf("%d bytes to IMEI %s", len(text), imei), nil
}

// refuseChannels comes to the device service with what it must not let in. All are
// refused in the same words.
func (d *demo) refuseChannels(ctx context.Context, hands []*held) error {
	own, neighbour, renewed := hands[lost], hands[other], hands[reprovided]
	for _, c := range []struct {
		what  string
		on    *held
		as    *held // whose identity it says; nil: its own
		older identity.Generation
		wrong bool // another key stands in the place of its own
	}{
		{what: "a channel with a key that was tampered with", on: own, wrong: true},
		{what: "a channel of a clone: the IMEI on another chip", on: neighbour, as: own},
		{what: "a channel of a superseded generation", on: renewed, older: 1},
	} {
		refusal := Refusal{Case: c.what}
		opened, err := d.dial(ctx, c.on, cmp.Or(c.as, c.on), c.older, c.wrong)
		if err == nil {
			err = opened.Close()
		} else if errors.Is(err, channel.ErrRefused) {
			refusal.Refused, refusal.Reason, err = true, "refused", nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.what, err)
		}
		d.report.Refusals = append(d.report.Refusals, refusal)
	}
	return nil
}

// dial opens a channel with one device's key, or with a wrong one, under what another says of itself.
func (d *demo) dial(ctx context.Context, on, as *held, g identity.Generation, wrong bool) (*client.Client, error) {
	b, err := as.Boot(ctx)
	if err != nil {
		return nil, err
	}
	if on != as {
		if _, err := on.Boot(ctx); err != nil {
			return nil, err
		}
	}
	key := keypackage.KeyID{}
	for _, e := range b.Entries {
		if e.Kind == keypackage.Communication {
			key = e.Key
		}
	}
	hello := channel.Hello{Suite: channel.SuiteNoise, Realm: b.Realm, Key: key, Identity: b.Identity, Generation: cmp.Or(g, b.Generation)}
	mac := func(ctx context.Context, msg []byte) ([]byte, error) { return on.MAC(ctx, key.Name, msg) }
	if wrong {
		changed := make([]byte, keypackage.SymmetricSize)
		rand.Read(changed) // never fails
		mac = func(_ context.Context, msg []byte) ([]byte, error) {
			h := hmac.New(sha256.New, changed)
			h.Write(msg)
			return h.Sum(nil), nil
		}
	}
	return client.Dial(ctx, d.Address("deviceservice"), channel.DeviceConfig{Hello: hello, MAC: mac})
}
