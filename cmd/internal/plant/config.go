package plant

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// token gives the section of a configuration that names a program's token.
func (p *Plant) token(hsm, label string, sessions int) string {
	return fmt.Sprintf("token:\n  token: %s\n  pin_file: %s\n  lock_file: %s\n  sessions: %d\n", label, p.Etc(hsm+".pin"), p.hsms[hsm].LockFile(), sessions)
}

// writer collects configurations; the first error is kept.
type writer struct {
	p     *Plant
	files map[string]string
	err   error
}

// database gives a section that names a database as a part reaches it.
func (w *writer) database(from, section, indent, database, role string) string {
	lines, err := w.p.database(from, indent+"  ", database, role)
	if err != nil && w.err == nil {
		w.err = err
	}
	return indent + section + ":\n" + lines
}

// reach gives the address of a server as a part reaches it.
func (w *writer) reach(from, to string) string {
	address, err := w.p.reach(from, to)
	if err != nil && w.err == nil {
		w.err = err
	}
	return address
}

// writeConfigurations writes one YAML file a program, and the inputs of the
// line: profile, modules, identities.
func (p *Plant) writeConfigurations() error {
	w := &writer{p: p, files: map[string]string{"phone.yaml": phoneProfile(p.ModuleDir(), p.Pairs), "imeis.csv": p.identities()}}
	w.servers()
	if p.Service {
		w.service()
	}
	w.people()
	for i, spp := range p.SPPNames() {
		w.spp(i, spp)
	}
	for _, station := range p.StationNames() {
		for _, spp := range p.SPPNames() {
			w.station(station, spp)
		}
	}
	if w.err != nil {
		return w.err
	}
	for name, text := range w.files {
		if err := os.WriteFile(p.Etc(name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	for name, text := range modules {
		if err := os.WriteFile(filepath.Join(p.ModuleDir(), name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (w *writer) spp(i int, spp string) {
	p := w.p
	var makers []string
	for _, station := range p.StationNames() {
		makers = append(makers, p.ChipMaker(station))
	}
	token := p.token(spp, "dev-spp", 16)
	if i < len(p.Modules) && p.Modules[i].Path != "" {
		token += "  module: " + p.Modules[i].Path + "\n"
	}
	w.files[spp+".yaml"] = "realm: development\nlisten: " + p.ports[spp] + "\nmetrics_listen: " + p.ports[spp+" metrics"] + "\n" +
		token + "tls:\n  certificate: " + spp + ".pem\n  client_ca: " + p.Public("station-ca.pem") + "\n" +
		w.database(spp, "pool", "", "pool", "spp") + w.database(spp, "records", "", "records", "spp") +
		"sequencer:\n  url: https://" + w.reach(spp, "sequencer") + "\n  ca: " + p.Public("station-ca.pem") + "\n" +
		"profiles: [phone.yaml]\ndevice_ca: " + p.Public("device-ca.pem") + "\nchip_makers: [" + strings.Join(makers, ", ") + "]\n" +
		"owner:\n" + w.database("", "pool", "  ", "pool", "pool_owner") + w.database("", "records", "  ", "records", "records_owner")
}

func (w *writer) servers() {
	p := w.p
	w.files["sequencer.yaml"] = "realm: development\nlisten: " + p.ports["sequencer"] + "\nmetrics_listen: " + p.ports["sequencer metrics"] + "\n" +
		p.token("sequencer", "dev-sequencer", 4) + "tls:\n  certificate: sequencer.pem\n  client_ca: " + p.Public("station-ca.pem") + "\n" +
		w.database("sequencer", "database", "", "registry", "sequencer") + "submission_keys: [" + p.Public("submission.pem") + "]\nidentity_signing_keys: [" + p.Public("rom-key.pem") + "]\n"
	w.files["registry-migrate.yaml"] = w.database("", "database", "", "registry", "registry_owner") + "roles:\n  reader: reader\n"
	w.files["registry.yaml"] = "listen: " + p.ports["registry"] + "\nmetrics_listen: " + p.ports["registry metrics"] + "\n" +
		w.database("registry", "database", "", "registry", "reader") + "rate: 10000\nburst: 10000\ndirectory: true\ndirectory_rate: 100\ndirectory_burst: 100\n"
}

// people are custodian and auditor, who reach everything directly.
func (w *writer) people() {
	p := w.p
	first := p.SPPNames()[0]
	w.files["custodian.yaml"] = "realm: development\nactor: " + p.Name + "\n" + w.database("", "records", "", "records", "custodian") + p.token(first, "dev-spp", 2) +
		"so_pin_file: " + p.Etc(first+"-so.pin") + "\npublic: " + filepath.Join(p.Dir, "public") + "\n"
	var certificates []string
	for _, c := range p.credentials() {
		certificates = append(certificates, p.Etc(c.file+".pem"))
	}
	w.files["auditor.yaml"] = "realm: development\nactor: " + p.Name + "\n" + w.database("", "pool", "", "pool", "auditor") + w.database("", "records", "", "records", "auditor") +
		"registry:\n  url: http://" + p.ports["registry"] + "\n" + w.database("", "database", "  ", "registry", "auditor") +
		p.token(first, "dev-spp", 2) + "rom_key: " + p.Public("rom-key.pem") + "\naudit_key: " + p.Public("audit.pem") + "\n" +
		"certificates: [" + strings.Join(certificates, ", ") + "]\n"
}

func (w *writer) station(station, spp string) {
	p := w.p
	known := p.Knows(station, spp)
	urls := make([]string, len(known))
	for i, k := range known {
		urls[i] = "https://" + w.reach("stations", k)
	}
	where := "url: " + urls[0]
	if len(urls) > 1 {
		where = "urls: [" + strings.Join(urls, ", ") + "]"
	}
	w.files[filepath.Base(p.StationConfig(station, spp))] = "realm: development\nspp:\n  " + where + "\n  ca: " + p.Public("station-ca.pem") + "\n" +
		p.token(station, "dev-station", 4) + "certificate: " + station + ".pem\ndevices: " + p.Fixtures(station) + "\n" +
		"modules: " + p.ModuleDir() + "\njournal: " + filepath.Join(p.Dir, "journal"+strings.TrimPrefix(station, "station")) + "\n"
}

// Knows lists the SPPs that a station goes to when it prefers one. Of several stations, every
// second one knows all of them; the others know the one only, and wait for it.
func (p *Plant) Knows(station, spp string) []string {
	known := []string{spp}
	if slices.Index(p.StationNames(), station)%2 == 1 {
		for _, other := range p.SPPNames() {
			if other != spp {
				known = append(known, other)
			}
		}
	}
	return known
}

// StationConfig is the configuration of a station for work with an SPP.
func (p *Plant) StationConfig(station, spp string) string {
	if p.SPPs == 1 && slices.Contains(p.SPPNames(), spp) {
		return p.Etc(station + ".yaml")
	}
	return p.Etc(station + "-" + spp + ".yaml")
}

// ChipMaker is the public key of the maker of a station's chips.
func (p *Plant) ChipMaker(station string) string {
	return filepath.Join(p.Fixtures(station), "chip-maker", "public.pem")
}
