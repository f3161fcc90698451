package plant

import (
	"context"
	"strconv"
)

// service is the device service's name.
const service = "deviceservice"

// sendPurposeKey brings the channel's purpose key from an SPP's token into the
// device service's, as two custodians would: the blob as a file, the check value by
// another way.
func (p *Plant) sendPurposeKey(ctx context.Context, spp string) error {
	blob := p.Etc("channel.purpose")
	var sent struct {
		Check string `json:"check"`
	}
	err := p.Ask(ctx, p.With("custodian", spp), &sent, "purpose", "export", "--config", p.Etc("custodian.yaml"), "--to", p.Etc("service-transport.pem"), "--out", blob)
	if err != nil {
		return err
	}
	_, err = p.Run(ctx, p.With("custodian", service), nil, "purpose", "import", "--token", "dev-service", "--pin-file", p.Etc(service+".pin"),
		"--lock-file", p.hsms[service].LockFile(), "--in", blob, "--check", sent.Check)
	return err
}

// service writes the device service's configuration. All devices come from one
// address here, and a benchmark's come again and again, so the limits are high.
func (w *writer) service() {
	p := w.p
	ways := "[derived]"
	if p.Pairs != "" {
		ways = "[derived, certificate]"
	}
	w.files[service+".yaml"] = "realm: development\nlisten: " + p.ports[service] + "\nmetrics_listen: " + p.ports[service+" metrics"] + "\n" +
		p.token(service, "dev-service", 8) + "tls:\n  certificate: " + service + ".pem\n  device_ca: " + p.Public("device-ca.pem") + "\n" +
		w.database(service, "records", "", "records", "service") + "registry: http://" + p.ports["registry"] + "\n" +
		"keys:\n  ways: " + ways + "\nlimits:\n  source_rate: 100000\n  source_burst: 100000\n  device_rate: 10000\n  device_burst: 10000\n"
}

// ServeService starts the device service.
func (p *Plant) ServeService(ctx context.Context) error {
	return p.Serve(ctx, service, p.With(service, service))
}

// MakeKeysInAdvance makes the key pairs of devices to come, as many as there are
// identities or n, and tells how many keys that were.
func (p *Plant) MakeKeysInAdvance(ctx context.Context, n int) (keys int, err error) {
	spp := p.SPPNames()[0]
	var made struct {
		Keys int `json:"keys"`
	}
	err = p.Ask(ctx, p.With("spp", spp), &made, "pool", "generate", "--config", p.Etc(spp+".yaml"), "--line", ProductLine, "--operator", p.Name, "--count", strconv.Itoa(n))
	return made.Keys, err
}
