package channel

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

var update = flag.Bool("update", false, "write the golden vectors anew instead of comparing them")

// sequence gives n bytes that count up from first: keys anyone can type.
func sequence(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// vectors is one conversation of each suite that has bytes of its own, all keys known.
type vectors struct {
	DeviceKey string `json:"device_key"`

	Noise struct {
		Hello          string `json:"hello"`
		PrivateDevice  string `json:"private_device"`
		PrivateService string `json:"private_service"`
		PublicDevice   string `json:"public_device"`
		PublicService  string `json:"public_service"`
		PSKMessage     string `json:"psk_message"`
		PSK            string `json:"psk"`
		First          string `json:"device_sends_first"`
		Greeting       string `json:"greeting"`
		Second         string `json:"service_answers"`
		Binding        string `json:"binding"`
		Confirm        string `json:"device_confirms"`
		Message        string `json:"device_sends_ask"`
		Answer         string `json:"service_sends_16385_times_07"` // SHA-256 of it: two frames
		End            string `json:"device_ends"`
		Rekeyed        string `json:"device_sends_ask_after_a_rekey_instead"`
	} `json:"noise"`

	TLS struct {
		Hello          string `json:"hello"`
		Exporter       string `json:"exporter"`
		DeviceMessage  string `json:"device_proof_message"`
		Device         string `json:"device_sends"`
		ServiceMessage string `json:"service_proof_message"`
		Service        string `json:"service_answers"`
	} `json:"tls"`

	Certificate struct {
		Hello   string `json:"hello"`
		Service string `json:"service_answers"`
	} `json:"certificate"`

	Busy string `json:"service_is_busy_for_15_seconds"`
}

func newVectors(t *testing.T) (v vectors) {
	t.Helper()
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	frame := func(body ...[]byte) []byte {
		var out bytes.Buffer
		must(nil, writeFrame(&out, body...))
		return out.Bytes()
	}
	key := sequence(0, 32)
	mac := func(msg []byte) []byte {
		h := hmac.New(sha256.New, key)
		h.Write(msg)
		return h.Sum(nil)
	}
	x := hex.EncodeToString
	v.DeviceKey = x(key)
	id, err := identity.TAC("00440245").IMEI(1)
	must(nil, err)
	hello := func(s Suite, k keypackage.KeyID) []byte {
		return must(Hello{Suite: s, Realm: identity.Development, Key: k, Identity: id, Generation: 1}.Encode())
	}
	channelKey := keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}
	g := greeting{at: time.Unix(1_700_000_000, 0).UTC(), session: [sessionSize]byte(sequence(0xf0, sessionSize))}

	n := &v.Noise
	h := hello(SuiteNoise, channelKey)
	side := func(initiator bool, private []byte) (*flynn, []byte) {
		own := fixed(t, private)
		hs, err := newNoise(initiator, h, own)
		must(nil, err)
		return hs, own.public()
	}
	device, de := side(true, sequence(0x40, 32))
	service, se := side(false, sequence(0x60, 32))
	msg := pskMessage(h, de, se)
	n.Hello, n.PrivateDevice, n.PrivateService, n.PublicDevice, n.PublicService = x(h), x(sequence(0x40, 32)), x(sequence(0x60, 32)), x(de), x(se)
	n.PSKMessage, n.PSK, n.Greeting = x(msg), x(mac(msg)), x(g.encode())
	first := must(device.write(nil))
	n.First = x(append(frame([]byte{frameHello}, h), frame([]byte{frameHandshake}, first)...))
	must(service.read(first))
	must(nil, device.preshare(mac(msg)))
	must(nil, service.preshare(mac(msg)))
	second := must(service.write(g.encode()))
	n.Second = x(frame([]byte{frameHandshake}, second))
	must(device.read(second))
	out, _, binding, err := device.split()
	n.Binding = x(must(binding, err))
	back, _, _, err := service.split()
	must(nil, err)
	toService, toDevice := &noiseRecords{state: out, rekey: DefaultRekey}, &noiseRecords{state: back, rekey: DefaultRekey}
	n.Confirm = x(must(toService.seal(nil, recordConfirm, nil)))
	n.Message = x(must(toService.seal(nil, recordLast, []byte("ask"))))
	seven := bytes.Repeat([]byte{7}, chunk+1)
	answer := must(toDevice.seal(nil, recordPart, seven[:chunk]))
	answer = must(toDevice.seal(answer, recordLast, seven[chunk:]))
	sum := sha256.Sum256(answer)
	n.Answer = x(sum[:])
	// The third record of the device, once as it is and once with a key replaced after the second.
	n.End = x(must(toService.seal(nil, recordEnd, nil)))
	out.SetNonce(2)
	out.Rekey()
	n.Rekeyed = x(must(toService.seal(nil, recordLast, []byte("ask"))))

	h = hello(SuiteTLS, channelKey)
	exporter := sequence(0x80, exporterSize)
	byDevice, byService := proofMessage(labelDevice, h, exporter), proofMessage(labelService, h, exporter)
	v.TLS.Hello, v.TLS.Exporter, v.TLS.DeviceMessage, v.TLS.ServiceMessage = x(h), x(exporter), x(byDevice), x(byService)
	v.TLS.Device = x(append(frame([]byte{frameHello}, h), frame([]byte{frameHandshake}, mac(byDevice))...))
	v.TLS.Service = x(frame([]byte{frameHandshake}, mac(byService), g.encode()))

	v.Certificate.Hello = x(hello(SuiteCertificate, keypackage.KeyID{Name: "tls"}))
	v.Certificate.Service = x(frame([]byte{frameHandshake}, g.encode()))
	v.Busy = x(frame(busyFrame(15 * time.Second)))
	return v
}

func TestGolden(t *testing.T) {
	t.Parallel()
	b, err := json.MarshalIndent(newVectors(t), "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile("testdata/golden.json", b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)); diff != "" {
		t.Errorf("a format that can never change has changed (-was +is):\n%s", diff)
	}
}
