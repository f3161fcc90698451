package plant

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// credential is a program with a token, and what it is certified as.
type credential struct {
	program, name, hsm, token string
	file                      string // its PIN, request and certificate begin so
	certify                   []string
}

func (p *Plant) credentials() []credential {
	var all []credential
	server := func(role string) []string {
		return []string{"--kind", "server", "--role", role, "--ip", "127.0.0.1"}
	}
	for i, spp := range p.SPPNames() {
		all = append(all, credential{"spp", fmt.Sprintf("spp-%d", i+1), spp, "dev-spp", spp, server("spp")})
	}
	all = append(all, credential{"sequencer", "sequencer-1", "sequencer", "dev-sequencer", "sequencer", server("sequencer")})
	if p.Service {
		all = append(all, credential{"deviceservice", "service-1", service, "dev-service", service, server("deviceservice")})
	}
	for i, station := range p.StationNames() {
		all = append(all, credential{"station", fmt.Sprintf("line-%d", i+1), station, "dev-station", station,
			[]string{"--kind", "station", "--line", ProductLine, "--tac", TestTAC + "-" + LastTAC, "--quota", "1000000"}})
	}
	return all
}

// SetUp is the development realm's set-up: databases' schemas first, since
// no key is made without an audit entry, then the maker's keys, then tokens and
// certificates of the other programs. Postgres runs.
func (p *Plant) SetUp(ctx context.Context) error {
	if err := p.writeConfigurations(); err != nil {
		return err
	}
	first := p.SPPNames()[0]
	for _, migrate := range [][]string{{"spp", first + ".yaml"}, {"registry", "registry-migrate.yaml"}} {
		if _, err := p.Run(ctx, p.With(migrate[0], ""), nil, "migrate", "--config", p.Etc(migrate[1])); err != nil {
			return err
		}
	}
	if _, err := p.Run(ctx, p.With("custodian", first), nil, "setup", "--config", p.Etc("custodian.yaml")); err != nil {
		return err
	}
	for _, spp := range p.SPPNames()[1:] {
		if err := p.copyToken(first, spp); err != nil {
			return fmt.Errorf("copy the token of %s for %s: %w", first, spp, err)
		}
	}
	for _, c := range p.credentials() {
		args := []string{"token", "--for", c.program, "--name", c.name, "--token", c.token, "--pin-file", p.Etc(c.file + ".pin"),
			"--lock-file", p.hsms[c.hsm].LockFile(), "--request", p.Etc(c.file + ".csr")}
		switch c.program {
		case "sequencer":
			args = append(args, "--checkpoint-key", p.Public("checkpoint.pem"))
		case "deviceservice":
			args = append(args, "--transport-key", p.Etc("service-transport.pem"))
		}
		if _, err := p.Run(ctx, p.With("custodian", c.hsm), nil, args...); err != nil {
			return err
		}
		args = append([]string{"certify", "--config", p.Etc("custodian.yaml"), "--name", c.name, "--request", p.Etc(c.file + ".csr"), "--out", p.Etc(c.file + ".pem")}, c.certify...)
		if _, err := p.Run(ctx, p.With("custodian", first), nil, args...); err != nil {
			return err
		}
	}
	if p.Service {
		return p.sendPurposeKey(ctx, first)
	}
	return nil
}

// copyToken gives an SPP a token of its own with the keys of another one's, which has
// no TLS key yet, and the same PINs. Nobody uses either while it is copied.
func (p *Plant) copyToken(from, to string) error {
	for _, name := range []string{".pin", "-so.pin"} {
		if err := copyFile(p.Etc(from+name), p.Etc(to+name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	source, target := filepath.Join(p.hsms[from].Path(), "tokens"), filepath.Join(p.hsms[to].Path(), "tokens")
	return filepath.WalkDir(source, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		copied := target + strings.TrimPrefix(path, source)
		if !e.IsDir() {
			return copyFile(path, copied)
		}
		if err := os.Mkdir(copied, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// copyFile copies a file with its mode; an existing one is never overwritten.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, info.Mode())
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}
