package deviceservice_test

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/deviceservice/call"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// TestServices: a device in the field opens a channel with its key and is served.
func TestServices(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Handlers = map[string]deviceservice.Handler{
			"who": deviceservice.HandlerFunc(func(_ context.Context, c deviceservice.Caller, _ []byte) ([]byte, error) {
				return fmt.Appendf(nil, "%s %d %v", c.Device.Identity, c.Device.Generation, c.Source.IsLoopback()), nil
			}),
			"later": deviceservice.HandlerFunc(func(context.Context, deviceservice.Caller, []byte) ([]byte, error) {
				return nil, &deviceservice.RetryError{After: 7 * time.Second, Err: errors.New("full")}
			}),
			"fails": deviceservice.HandlerFunc(func(context.Context, deviceservice.Caller, []byte) ([]byte, error) { return nil, errors.New("x") }),
			"too-big": deviceservice.HandlerFunc(func(context.Context, deviceservice.Caller, []byte) ([]byte, error) {
				return make([]byte, call.MaxBody+1), nil
			}),
		}
	})
	for _, state := range []records.State{records.Published, records.Shipped} {
		t.Run(string(state), func(t *testing.T) {
			n := map[records.State]int{records.Published: 1, records.Shipped: 2}[state]
			d := p.records.Put(n, 1, state)
			c := p.mustDial(p.device(n, 1))
			at, err := c.Time(t.Context())
			must(t, err)
			if off := time.Since(at); off < -time.Minute || off > time.Minute {
				t.Errorf("the service's time is %s off", off)
			}
			for _, size := range []int{0, 1, call.MaxBody} {
				body := make([]byte, size)
				rand.Read(body)
				if have, err := c.Echo(t.Context(), body); err != nil || !bytes.Equal(have, body) {
					t.Errorf("echo of %d bytes gives %d, %v", size, len(have), err)
				}
			}
			if s, err := c.Status(t.Context()); err != nil || s != (call.DeviceStatus{Generation: 1, Newest: 1, Active: true}) {
				t.Errorf("status = %+v, %v", s, err)
			}
			if b, err := c.Call(t.Context(), "who", nil); err != nil || string(b) != d.Identity.String()+" 1 true" {
				t.Errorf("who = %q, %v", b, err)
			}
			for method, want := range map[string]call.Status{"nothing": call.Unknown, "fails": call.Failed, "too-big": call.Failed, "later": call.Busy} {
				_, err := c.Call(t.Context(), method, nil)
				if !errors.Is(err, want) {
					t.Errorf("%s gives %v, want %v", method, err, want)
				}
				var busy *client.BusyError
				if want == call.Busy && (!errors.As(err, &busy) || busy.After != 7*time.Second) {
					t.Errorf("%s gives %v", method, err)
				}
			}
			if _, err := c.Call(t.Context(), call.MethodTime, []byte("x")); !errors.Is(err, call.Bad) {
				t.Errorf("a body too many gives %v", err)
			}
			must(t, c.Close())
		})
	}
	if _, err := deviceservice.New(deviceservice.Options{}); err == nil {
		t.Error("a service without anything is made")
	}
	await(t, "both channels are gone", func() bool { return p.service.Sessions() == 0 })
	if n := p.metric("devicekeys_service_handshakes_total", "outcome=ok", "suite=noise"); n != 2 {
		t.Errorf("%g handshakes counted", n)
	}
	if n := p.metric("devicekeys_service_requests_total", "method=other", "status=unknown-method"); n != 2 {
		t.Errorf("%g unknown methods counted", n)
	}
}

// TestCutOff: whoever is set apart loses the channel that it has, and learns why if it asks for that.
func TestCutOff(t *testing.T) {
	t.Parallel()
	p := newPlant(t, nil)
	for n, c := range []struct {
		name   string
		move   func(n int)
		status call.DeviceStatus
	}{
		{"quarantined", func(n int) { p.records.Move(n, 1, records.Quarantined) }, call.DeviceStatus{Generation: 1}},
		{"scrapped", func(n int) { p.records.Move(n, 1, records.Scrapped) }, call.DeviceStatus{Generation: 1}},
		{"superseded", func(n int) {
			p.records.Put(n, 2, records.Restored)
			p.records.Move(n, 1, records.Superseded)
			p.records.Move(n, 2, records.Published)
		}, call.DeviceStatus{Generation: 1, Newest: 2}},
		// Of the chip that the identity went to, in the same generation, it learns nothing.
		{"swapped", func(n int) {
			p.records.Move(n, 1, records.Scrapped)
			p.records.Swap(n, 100+n)
		}, call.DeviceStatus{Generation: 1}},
	} {
		p.records.Put(n, 1, records.Shipped)
		asks, works := p.mustDial(p.device(n, 1)), p.mustDial(p.device(n, 1))
		for _, one := range []*client.Client{asks, works} {
			_, err := one.Echo(t.Context(), nil)
			must(t, err)
		}
		c.move(n)
		p.clock.pass(issued.DefaultFresh)
		if s, err := asks.Status(t.Context()); err != nil || s != c.status {
			t.Errorf("%s: status = %+v, %v", c.name, s, err)
		}
		if _, err := works.Echo(t.Context(), nil); !errors.Is(err, call.Refused) {
			t.Errorf("%s: echo gives %v", c.name, err)
		}
		for _, one := range []*client.Client{asks, works} {
			if _, err := one.Echo(t.Context(), nil); !errors.Is(err, client.ErrBroken) {
				t.Errorf("%s: the channel goes on: %v", c.name, err)
			}
		}
		if _, err := p.dial(p.device(n, 1)); err == nil {
			t.Errorf("%s: let in again", c.name)
		}
	}
	await(t, "no channel is left", func() bool { return p.service.Sessions() == 0 })
}

// TestRecordsAway: without the database the service goes on for a stated time with whom it knows, and for no longer.
func TestRecordsAway(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Ways = []deviceservice.Way{deviceservice.Derived, deviceservice.Fetched}
	})
	p.records.Put(1, 1, records.Shipped)
	p.records.Put(2, 1, records.Shipped)
	open := p.mustDial(p.device(1, 1))
	known, stranger := p.device(1, 1), p.device(2, 1)
	fetched := p.made(3, true)
	p.mustDial(fetched)
	// Whoever has asked for an identity learns later no more of one that was issued than of one that wasn't.
	issuedID, never := known, p.device(9000, 1)
	never.MAC = fetched.MAC
	if _, err := p.dial(never); err == nil {
		t.Error("let in, and never issued")
	}
	issuedID.Hello.Key, never.Hello.Key, issuedID.MAC = fetched.Hello.Key, fetched.Hello.Key, fetched.MAC
	must(t, p.records.As(issued.DefaultRole).Close())
	p.clock.pass(issued.DefaultMaxAge - 1)
	p.mustDial(known)
	p.mustDial(fetched)
	one, _, err1 := p.try(issuedID)
	other, _, err2 := p.try(never)
	if one != other || err1 == nil || err2 == nil || err1.Error() != err2.Error() {
		t.Errorf("an identity that was issued gets %s, %v, one that wasn't %s, %v", one, err1, other, err2)
	}
	if _, err := p.dial(stranger); err == nil {
		t.Error("a device that nobody looked up is let in unchecked")
	}
	_, err := open.Echo(t.Context(), nil)
	must(t, err)
	p.clock.pass(1)
	var later *channel.BusyError
	if _, err := p.dial(known); !errors.As(err, &later) || later.After <= 0 {
		t.Errorf("on an answer that is too old: %v, want to be told when to come again", err)
	}
	var busy *client.BusyError
	if _, err := open.Echo(t.Context(), nil); !errors.As(err, &busy) || busy.After <= 0 {
		t.Errorf("an open channel gives %v, want to be told when to come again", err)
	}
	if _, err := p.dial(fetched); !errors.As(err, &later) {
		t.Errorf("a fetched key on an answer that is too old: %v", err)
	}
	await(t, "the refusals are counted", func() bool { return p.metric("devicekeys_service_handshakes_total", "outcome=records-away") == 4 })
	if p.metric("devicekeys_service_records_away") != 1 {
		t.Error("the metric does not say that the records are away")
	}
}

// TestNewestWins: a device that forgot its channels gets a new one for the oldest.
func TestNewestWins(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(o *deviceservice.Options) { o.MaxPerDevice = 2 })
	p.records.Put(1, 1, records.Shipped)
	p.records.Put(2, 1, records.Shipped)
	other := p.mustDial(p.device(2, 1))
	d := p.device(1, 1)
	var all []*client.Client
	for range 5 {
		c := p.mustDial(d)
		_, err := c.Echo(t.Context(), nil)
		must(t, err)
		all = append(all, c)
	}
	await(t, "three channels are open", func() bool { return p.service.Sessions() == 3 })
	for i, c := range append(all, other) {
		if _, err := c.Echo(t.Context(), nil); (err == nil) != (i >= 3) {
			t.Errorf("channel %d gives %v", i, err)
		}
	}
}

// TestFull: above the limit of connections, the next one is closed at once and costs nothing.
func TestFull(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(o *deviceservice.Options) { o.MaxChannels = 2 })
	var all []*client.Client
	for n := range 2 {
		p.records.Put(n, 1, records.Shipped)
		all = append(all, p.mustDial(p.device(n, 1)))
	}
	p.records.Put(2, 1, records.Shipped)
	third := p.device(2, 1)
	if _, err := p.dial(third); err == nil {
		t.Error("a third connection is served")
	}
	if p.metric("devicekeys_service_connections_refused_total") != 1 {
		t.Error("it is not counted")
	}
	must(t, all[0].Close())
	await(t, "there is room", func() bool {
		_, err := p.dial(third)
		return err == nil
	})
}

// TestStop: a request in hand is answered, idle channels end properly, and nobody new is let in.
func TestStop(t *testing.T) {
	t.Parallel()
	begun, finish := make(chan struct{}), make(chan struct{})
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Handlers = map[string]deviceservice.Handler{"slow": deviceservice.HandlerFunc(
			func(context.Context, deviceservice.Caller, []byte) ([]byte, error) {
				close(begun)
				<-finish
				return []byte("done"), nil
			})}
	})
	p.records.Put(1, 1, records.Shipped)
	p.records.Put(2, 1, records.Shipped)
	busy, idle := p.mustDial(p.device(1, 1)), p.mustDial(p.device(2, 1))
	answered := make(chan error, 1)
	go func() {
		b, err := busy.Call(context.Background(), "slow", nil)
		if err == nil && string(b) != "done" {
			err = fmt.Errorf("the answer is %q", b)
		}
		answered <- err
	}()
	<-begun
	p.stop()
	await(t, "the idle channel has ended", func() bool { return p.service.Sessions() == 1 })
	if _, err := idle.Channel().Receive(t.Context()); err == nil || errors.Is(err, channel.ErrTruncated) {
		t.Errorf("the idle channel's end is %v, not a proper one", err)
	}
	if _, err := p.dial(p.device(1, 1)); err == nil {
		t.Error("a new device is let in")
	}
	close(finish)
	must(t, <-answered)
	must(t, p.end())
}

// TestManyAtOnce: a hundred channels of as many devices, with few sessions at the HSM; none mixes up with another.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const devices, rounds = 100, 3
	p := newPlant(t, func(o *deviceservice.Options) { o.KeysAtOnce = 4 })
	var configs []channel.DeviceConfig
	for n := range devices {
		p.records.Put(n, 1, records.Shipped)
		configs = append(configs, p.device(n, 1))
	}
	began := time.Now()
	var group sync.WaitGroup
	for n, d := range configs {
		group.Go(func() {
			c, err := p.dial(d)
			if err != nil {
				t.Errorf("device %d: %v", n, err)
				return
			}
			for round := range rounds {
				want := fmt.Appendf(nil, "device %d, round %d", n, round)
				if have, err := c.Echo(t.Context(), want); err != nil || !bytes.Equal(have, want) {
					t.Errorf("device %d gets %q, %v", n, have, err)
				}
			}
		})
	}
	group.Wait()
	t.Logf("%d channels opened and used in %s", devices, time.Since(began))
	if n := p.metric("devicekeys_service_channels"); n != devices {
		t.Errorf("%g channels are open", n)
	}
	if n := p.metric("devicekeys_service_keys_total", "way=derived"); n != devices {
		t.Errorf("%g keys were derived", n)
	}
}

// TestFetched: a key that can't be derived comes from the records, wrapped, under a label of record, generation and entry.
func TestFetched(t *testing.T) {
	t.Parallel()
	p := newPlant(t, func(o *deviceservice.Options) {
		o.Ways = []deviceservice.Way{deviceservice.Derived, deviceservice.Fetched}
		o.Lines = map[string][]deviceservice.Way{"watch": {deviceservice.Derived}}
	})
	// A device whose key was made for it, and sent to the service by the records.
	key := make([]byte, 32)
	rand.Read(key)
	made := func(n int) channel.DeviceConfig {
		d := p.records.Put(n, 1, records.Shipped)
		return channel.DeviceConfig{
			Hello: channel.Hello{Suite: channel.SuiteNoise, Realm: dev, Key: keypackage.KeyID{Name: "channel"}, Identity: d.Identity, Generation: 1},
			MAC: func(_ context.Context, msg []byte) ([]byte, error) {
				m := hmac.New(sha256.New, key)
				m.Write(msg)
				return m.Sum(nil), nil
			},
		}
	}
	id := made(1)
	if _, err := p.dial(id); err == nil {
		t.Error("let in without a wrapped key")
	}
	record := issuedtest.Chip(t, 1).RecordID()
	blob, err := transport.WrapSoftware(dev, p.to, deviceservice.KeyLabel(record, 1, "channel"), key)
	must(t, err)
	p.records.Key(1, 1, "channel", blob)
	p.clock.pass(issued.DefaultFresh) // that there was none is remembered
	if _, err := p.mustDial(id).Echo(t.Context(), nil); err != nil {
		t.Error(err)
	}
	other := made(2)
	p.records.Key(2, 1, "channel", blob) // another row's bytes
	if _, err := p.dial(other); err == nil {
		t.Error("a row passes for another")
	}
	for _, outcome := range []deviceservice.Reason{deviceservice.ReasonNoKey, deviceservice.ReasonHSM} {
		await(t, string(outcome)+" is counted", func() bool {
			return p.metric("devicekeys_service_handshakes_total", "outcome="+string(outcome)) == 1
		})
	}
	p.records.Put(3, 1, records.Shipped)
	p.records.Exec(`update device set line = 'watch' where record_id = $1`, recordOf(t, 3))
	watch := p.device(3, 1)
	p.mustDial(watch)
	watch.Hello.Key = id.Hello.Key
	if _, err := p.dial(watch); err == nil {
		t.Error("a product line gets a key in a way that is not its own")
	}
}

func recordOf(t testing.TB, n int) []byte {
	t.Helper()
	r := issuedtest.Chip(t, n).RecordID()
	return r[:]
}

// TestCalls counts the PKCS#11 calls of one handshake on the service's side.
func TestCalls(t *testing.T) {
	p := newPlant(t, nil)
	p.registry.MustRegister(p.hsm.Hsm.Collector())
	p.records.Put(1, 1, records.Shipped)
	d := p.device(1, 1)
	p.mustDial(d) // sessions are open now
	before := p.metric("devicekeys_pkcs11_calls_total")
	_, err := d.MAC(t.Context(), []byte("what the device does in a handshake"))
	must(t, err)
	device := p.metric("devicekeys_pkcs11_calls_total") - before
	before = p.metric("devicekeys_pkcs11_calls_total")
	p.mustDial(d)
	await(t, "the key is destroyed", func() bool { return p.service.Sessions() == 2 })
	calls := p.metric("devicekeys_pkcs11_calls_total") - before - device
	t.Logf("a handshake is %g PKCS#11 calls of the service; the device makes %g", calls, device)
	if calls != 4 { // derive, two for the MAC, destroy
		t.Errorf("a handshake is %g PKCS#11 calls, 4 are expected", calls)
	}
}
