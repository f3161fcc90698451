package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// The names of the demo's world.
const (
	productLine = "phone"
	// testTAC has the reporting body 00, reserved for test equipment: the demo's
	// IMEIs are never a sold phone's.
	testTAC   = "00440245"
	stationID = "line-1"
)

// programs with tokens, and what each is certified as.
var certified = []struct {
	program, name, hsm, token string
	certify                   []string
}{
	{"spp", "spp-1", "spp", "dev-spp", []string{"--kind", "server", "--role", "spp", "--ip", "127.0.0.1"}},
	{"sequencer", "sequencer-1", "sequencer", "dev-sequencer", []string{"--kind", "server", "--role", "sequencer", "--ip", "127.0.0.1"}},
	{"station", stationID, "fixtures", "dev-station", []string{"--kind", "station", "--line", productLine, "--tac", testTAC + "-" + testTAC, "--quota", "1000000"}},
}

// setUpKeys is the development realm's set-up: databases' schemas first, since
// no key is made without an audit entry, then the maker's keys, then tokens and
// certificates of the other programs.
func (p *plant) setUpKeys(ctx context.Context) error {
	if err := p.writeConfigurations(); err != nil {
		return err
	}
	for _, migrate := range [][]string{{"spp", "spp.yaml"}, {"registry", "registry-migrate.yaml"}} {
		if _, err := p.run(ctx, p.with(migrate[0], ""), nil, "migrate", "--config", p.etc(migrate[1])); err != nil {
			return err
		}
	}
	if _, err := p.run(ctx, p.with("custodian", "spp"), nil, "setup", "--config", p.etc("custodian.yaml")); err != nil {
		return err
	}
	for _, c := range certified {
		args := []string{"token", "--for", c.program, "--name", c.name, "--token", c.token, "--pin-file", p.etc(c.program + ".pin"),
			"--lock-file", p.hsms[c.hsm].LockFile(), "--request", p.etc(c.program + ".csr")}
		if c.program == "sequencer" {
			args = append(args, "--checkpoint-key", p.public("checkpoint.pem"))
		}
		if _, err := p.run(ctx, p.with("custodian", c.hsm), nil, args...); err != nil {
			return err
		}
		args = append([]string{"certify", "--config", p.etc("custodian.yaml"), "--name", c.name, "--request", p.etc(c.program + ".csr"), "--out", p.etc(c.program + ".pem")}, c.certify...)
		if _, err := p.run(ctx, p.with("custodian", "spp"), nil, args...); err != nil {
			return err
		}
	}
	return nil
}

// token gives the section of a configuration that names a program's token.
func (p *plant) token(program, hsm, label string, sessions int) string {
	return fmt.Sprintf("token:\n  token: %s\n  pin_file: %s\n  lock_file: %s\n  sessions: %d\n", label, p.etc(program+".pin"), p.hsms[hsm].LockFile(), sessions)
}

// writeConfigurations writes one YAML file a program, and the inputs of the
// line: profile, modules, identities.
func (p *plant) writeConfigurations() error {
	db := func(name, database, role string) string { return name + ":\n" + p.database("  ", database, role) }
	files := map[string]string{
		"custodian.yaml": "realm: development\nactor: demo\n" + db("records", "records", "custodian") + p.token("spp", "spp", "dev-spp", 2) +
			"so_pin_file: " + p.etc("spp-so.pin") + "\npublic: " + filepath.Join(p.dir, "public") + "\n",
		"spp.yaml": "realm: development\nlisten: " + p.ports["spp"] + "\nmetrics_listen: " + p.ports["spp metrics"] + "\n" +
			p.token("spp", "spp", "dev-spp", 16) + "tls:\n  certificate: spp.pem\n  client_ca: " + p.public("station-ca.pem") + "\n" +
			db("pool", "pool", "spp") + db("records", "records", "spp") +
			"sequencer:\n  url: https://" + p.ports["sequencer"] + "\n  ca: " + p.public("station-ca.pem") + "\n" +
			"profiles: [phone.yaml]\nchip_makers: [" + filepath.Join(p.dir, "devices", "chip-maker", "public.pem") + "]\n" +
			"owner:\n  pool:\n" + p.database("    ", "pool", "pool_owner") + "  records:\n" + p.database("    ", "records", "records_owner"),
		"sequencer.yaml": "realm: development\nlisten: " + p.ports["sequencer"] + "\nmetrics_listen: " + p.ports["sequencer metrics"] + "\n" +
			p.token("sequencer", "sequencer", "dev-sequencer", 4) + "tls:\n  certificate: sequencer.pem\n  client_ca: " + p.public("station-ca.pem") + "\n" +
			db("database", "registry", "sequencer") + "submission_keys: [" + p.public("submission.pem") + "]\nidentity_signing_keys: [" + p.public("rom-key.pem") + "]\n",
		"registry-migrate.yaml": db("database", "registry", "registry_owner") + "roles:\n  reader: reader\n",
		"registry.yaml": "listen: " + p.ports["registry"] + "\nmetrics_listen: " + p.ports["registry metrics"] + "\n" +
			db("database", "registry", "reader") + "rate: 10000\nburst: 10000\n",
		"station.yaml": "realm: development\nspp:\n  url: https://" + p.ports["spp"] + "\n  ca: " + p.public("station-ca.pem") + "\n" +
			p.token("station", "fixtures", "dev-station", 4) + "certificate: station.pem\ndevices: " + filepath.Join(p.dir, "devices") + "\n" +
			"modules: " + filepath.Join(p.dir, "modules") + "\njournal: " + filepath.Join(p.dir, "journal") + "\n",
		"auditor.yaml": "realm: development\nactor: demo\n" + db("pool", "pool", "auditor") + db("records", "records", "auditor") +
			"registry:\n  url: http://" + p.ports["registry"] + "\n  database:\n" + p.database("    ", "registry", "auditor") +
			p.token("spp", "spp", "dev-spp", 2) + "rom_key: " + p.public("rom-key.pem") + "\naudit_key: " + p.public("audit.pem") + "\n" +
			"certificates: [" + p.etc("spp.pem") + ", " + p.etc("sequencer.pem") + ", " + p.etc("station.pem") + "]\n",
		"phone.yaml": phoneProfile(filepath.Join(p.dir, "modules")),
		"imeis.csv":  p.identities(),
	}
	for name, text := range files {
		if _, err := p.write(name, text); err != nil {
			return err
		}
	}
	for name, text := range modules {
		if err := os.WriteFile(filepath.Join(p.dir, "modules", name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

// phoneProfile is the demo's product line: a communication key derived from
// the master key, a SIM-lock code drawn for each device, a value for all to
// read.
func phoneProfile(modules string) string {
	return `name: ` + productLine + `
identity: imei
chip_id_bytes: 32
master_version: 1
kdf: 1
modules: ` + modules + `
entries:
  - {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}
  - {name: sim-unlock, kind: sim-lock, source: drawn, digits: true, size: 16}
  - {name: model, kind: opaque, source: value, clear: true, value: "phone, development"}
`
}

// modules are the basic software modules of the patent's step 2; what is in
// them is the device maker's business.
var modules = map[string]string{
	"boot":      "boot stage of the development phone\n",
	"radio":     "radio stage of the development phone\n",
	"provision": "takes a data package, encrypts it under the chip's key, and restores from a backup\n",
}

// identities is the batch that the demo imports: a range for the devices, and
// lines with the mistakes that real files have.
func (p *plant) identities() string {
	return fmt.Sprintf(`# TAC, first and last serial number; or one IMEI a line
%s,000000,%06d
%s9999990
%s99999A
3512345
`, testTAC, p.devices+9, testTAC, testTAC)
}
