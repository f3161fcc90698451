package interop_test

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"path/filepath"
	"testing"

	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

// token is a token that the house's programs filled, and what they say is in it.
type token struct {
	tokens *softhsm.Directory
	label  string
	pin    secret.Secret
	keys   []maker.Item

	checkpoint ed25519.PublicKey // of the sequencer's
}

// envPIN is where a token's PIN stands in the environment of the program that tries it.
const envPIN = "TOKEN_PIN"

func (k token) env(more ...string) []string {
	return append(append(k.tokens.Env(), envPIN+"="+string(k.pin.Bytes())), more...)
}

// of gives the labels of the keys of one class: SECRET_KEY, PRIVATE_KEY.
func (k token) of(class string) (labels []string) {
	for _, i := range k.keys {
		if i.Value("CKA_CLASS") == class {
			labels = append(labels, i.Label)
		}
	}
	return labels
}

// table is a key's inventory where the program that made it prints none: its kind's template.
func table(kind hsm.Kind, label string) maker.Item {
	i := maker.Item{Label: label, Kind: kind.String()}
	for _, a := range kind.Table() {
		i.Attributes = append(i.Attributes, maker.Attribute{Name: a.Attribute, Value: a.Value})
	}
	return i
}

// newTokens has the programs make a token of each kind: the SPP's, sequencer's, station's and device service's by the
// custodian, a chip's and its maker's by the device.
func newTokens(t testing.TB) map[string]token {
	t.Helper()
	p := newPlace(t, softhsm.New(t).NewDirectory(t), "dev-spp")
	p.db = recordstest.New(t).Database
	p.custodian()
	lock := p.tokens.LockFile()
	open := func(tokens *softhsm.Directory, label, pinFile string, keys ...maker.Item) token {
		t.Helper()
		pin, err := secret.ReadFile(p.path(pinFile))
		must(t, err)
		return token{tokens: tokens, label: label, pin: pin, keys: keys}
	}
	// made makes a program's token, or what the program needs in the SPP's.
	made := func(program string, more ...string) token {
		t.Helper()
		var r struct{ Keys []maker.Item }
		p.ask(&r, custodian(t), append([]string{"token", "--json", "--for", program, "--name", program + "-1", "--token", "dev-" + program,
			"--pin-file", program + ".pin", "--lock-file", lock, "--request", program + ".csr"}, more...)...)
		return open(p.tokens, "dev-"+program, program+".pin", r.Keys...)
	}

	spp := made("spp")
	var shown struct{ Keys []maker.Item }
	p.ask(&shown, custodian(t), "show", "--json", "-c", "custodian.yaml")
	spp.keys = shown.Keys

	service := made("deviceservice", "--transport-key", "transport.pem")
	var sent struct{ Check string }
	p.ask(&sent, custodian(t), "purpose", "export", "--json", "-c", "custodian.yaml", "--to", "transport.pem", "--out", "channel.purpose")
	p.run(custodian(t), "purpose", "import", "--token", service.label, "--pin-file", "deviceservice.pin", "--lock-file", lock, "--in", "channel.purpose", "--check", sent.Check)
	service.keys = append(service.keys, table(hsm.PurposeKey, "dev-purpose-channel-1"))

	sequencer := made("sequencer", "--checkpoint-key", "checkpoint.pem")
	block, _ := pem.Decode(read(t, p.path("checkpoint.pem")))
	public, err := x509.ParsePKIXPublicKey(block.Bytes)
	must(t, err)
	sequencer.checkpoint = public.(ed25519.PublicKey)

	p.run(filepath.Join(programs.Build(t, "", "device"), "device"), "create", "1", "--devices", "devices")
	bench, err := softhsm.NewDirectory(p.path("devices"))
	must(t, err)
	return map[string]token{
		"SPP": spp, "device service": service, "station": made("station"), "sequencer": sequencer,
		"chip": open(bench, "dev-device-0001", filepath.Join("devices", "slots", "device-0001", "pin"),
			table(hsm.ChipKey, "dev-chip-key"), table(hsm.AttestationKey, "dev-attestation-key")),
		"chip maker": open(bench, "dev-chip-maker", filepath.Join("devices", "chip-maker", "pin"), table(hsm.ChipMakerKey, "dev-chip-maker-key")),
	}
}

// ask runs a program of ours that must succeed, and reads the JSON that it prints.
func (p *place) ask(into any, name string, args ...string) {
	p.t.Helper()
	must(p.t, json.Unmarshal([]byte(p.run(name, args...)), into))
}
