package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"math/big"
	"os"
	"strings"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

type poolImportKeysCmd struct {
	console.ConfigFile
	console.Output
	File     string `arg:"" type:"existingfile" help:"One key a line: IDENTITY,ENTRY,PUBLIC,BLOB; the last two in base64, PUBLIC empty for a symmetric key."`
	Line     string `name:"line" required:"" placeholder:"LINE" help:"The product line that the keys are for."`
	Operator string `name:"operator" required:"" placeholder:"NAME" help:"Who imports them, for the audit log: up to 64 characters."`
}

func (*poolImportKeysCmd) Help() string {
	return `Keys of the profile's entries with source imported come from outside, each wrapped to the transport key of this HSM (custodian transport show) under the label "device <identity's URN> <entry>". They are unwrapped in the HSM and nowhere else. Identities come first: spp pool import. A line that is refused changes nothing, and neither do those after it; the same file again goes on: keys that are there stay.`
}

func (*poolImportKeysCmd) Examples() string {
	return `
$ spp pool import-keys --config spp.yaml --line tv --operator alice keys.csv
line      tv
imported  500
known     0`
}

// keysImported is what pool import-keys says.
type keysImported struct {
	Line     string `json:"line"`
	Imported int64  `json:"imported"`
	Known    int64  `json:"known"` // had their key already; it stays
}

// Bounds of the file: a blob has some 250 bytes.
const (
	maxKeyLine  = 2048
	maxKeyLines = 1_000_000
	keyPage     = 64 // keys of one transaction
)

// keyLine is one line of the file.
type keyLine struct {
	n            int
	id           identity.Identity
	entry        profile.Entry
	public, blob []byte
}

func (c *poolImportKeysCmd) Run(ctx context.Context, out console.IO) error {
	if _, err := (orderFlags{Reason: "-", Operator: c.Operator}).order(); err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		p, err := config.profile(c.Line)
		if err != nil {
			return err
		}
		lines, err := c.read(p)
		if err != nil {
			return err
		}
		return withToken(ctx, config, true, func(tok *hsm.Token, keys *maker.Keys) error {
			ca, err := config.deviceCA(tok, p)
			if err != nil {
				return err
			}
			bar := c.Progress(out.Err, len(lines), "keys")
			defer bar.Done()
			a := provisioning.Advance{Realm: config.Realm, Profile: p, Keys: keys, DeviceCA: ca, Pool: s.pool}
			result := keysImported{Line: c.Line}
			for begin := 0; begin < len(lines); begin += keyPage {
				page := lines[begin:min(begin+keyPage, len(lines))]
				n, err := c.take(ctx, s, a, keys, page)
				result.Imported += n
				if err != nil {
					return err
				}
				result.Known += int64(len(page)) - n
				bar.Add(len(page))
			}
			bar.Done()
			return c.Print(out.Out, result)
		})
	})
}

// take imports a few keys, the audit entries for their certificates first. A crash leaves whole pages.
func (c *poolImportKeysCmd) take(ctx context.Context, s stores, a provisioning.Advance, keys *maker.Keys, page []keyLine) (int64, error) {
	var ids []identity.Identity
	var serials, licensed []*big.Int // of each key, nil where it gets no certificate
	for _, l := range page {
		ids = append(ids, l.id)
		var serial *big.Int
		if l.entry.Certificate {
			var err error
			if serial, err = devicecert.NewSerial(); err != nil {
				return 0, err
			}
			licensed = append(licensed, serial)
		}
		serials = append(serials, serial)
	}
	waiting, err := s.pool.Look(ctx, ids)
	if err != nil {
		return 0, err
	}
	if len(licensed) > 0 {
		about := fmt.Sprintf("for imported keys of line %s, %s to %s", c.Line, ids[0], ids[len(ids)-1])
		if err := s.licenseCertificates(ctx, a.Realm, licensed, about, c.Operator); err != nil {
			return 0, err
		}
	}
	var all []pool.Key
	for i, l := range page {
		w, ok := waiting[l.id.Value()]
		if !ok || w.Line != c.Line {
			return 0, refusal(fmt.Errorf("%q, line %d: %s does not wait in the pool of line %q", c.File, l.n, l.id, c.Line), "keys", "import the identities first: spp pool import")
		}
		key, err := keys.Import(ctx, l.entry.Algorithm, l.public, deviceKeyLabel(l.id, l.entry.Name), l.blob)
		switch {
		case errors.Is(err, transport.ErrOther), hsm.Classify(err) == hsm.DataFault:
			return 0, refusal(fmt.Errorf("%q, line %d: the key of %s, entry %q: %w", c.File, l.n, l.id, l.entry.Name, err), "keys",
				"ask the sender to wrap it to this HSM's transport key, under the label that --help names")
		case err != nil:
			return 0, err
		}
		sealed, err := a.Seal(ctx, w.Batch, l.id, l.entry, key, serials[i])
		if err != nil {
			return 0, err
		}
		all = append(all, pool.Key{Identity: l.id, Entry: l.entry.Name, Sealed: sealed})
	}
	return s.pool.AddKeys(ctx, all)
}

// deviceKeyLabel is what a device's key travels as.
func deviceKeyLabel(id identity.Identity, entry string) string {
	return "device " + id.URN() + " " + entry
}

// read reads the whole file before anything is imported: a line that is wrong refuses it.
func (c *poolImportKeysCmd) read(p profile.Profile) ([]keyLine, error) {
	f, err := os.Open(c.File)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	entries := map[string]profile.Entry{}
	for _, e := range p.Entries {
		if e.Source == profile.Imported {
			entries[e.Name] = e
		}
	}
	var lines []keyLine
	scan := bufio.NewScanner(f)
	scan.Buffer(make([]byte, 0, maxKeyLine), maxKeyLine)
	for n := 1; scan.Scan(); n++ {
		text := strings.TrimSpace(scan.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		l, err := parseKeyLine(text, p, entries)
		if err == nil && len(lines) == maxKeyLines {
			err = fmt.Errorf("more than %d keys: split the file", maxKeyLines)
		}
		if err != nil {
			return nil, refusal(fmt.Errorf("%q, line %d: %w", c.File, n, err), "keys", "correct the file: nothing was imported")
		}
		l.n = n
		lines = append(lines, l)
	}
	if err := scan.Err(); err != nil {
		return nil, refusal(fmt.Errorf("%q: %w", c.File, err), "keys", "look whether it is the right file")
	}
	if len(lines) == 0 {
		return nil, refusal(fmt.Errorf("%q holds no key", c.File), "keys", "look whether it is the right file")
	}
	return lines, nil
}

func parseKeyLine(text string, p profile.Profile, entries map[string]profile.Entry) (l keyLine, err error) {
	fields := strings.Split(text, ",")
	if len(fields) != 4 {
		return l, fmt.Errorf("%d fields: identity, entry, public key and blob are expected", len(fields))
	}
	if l.id, err = identity.Parse(p.Identity, strings.TrimSpace(fields[0])); err != nil {
		return l, err
	}
	name := strings.TrimSpace(fields[1])
	var ok bool
	if l.entry, ok = entries[name]; !ok {
		return l, fmt.Errorf("the profile of line %q has no entry %q of source imported", p.Name, name)
	}
	if l.public, err = base64.StdEncoding.DecodeString(strings.TrimSpace(fields[2])); err != nil {
		return l, fmt.Errorf("public key: %w", err)
	}
	if l.blob, err = base64.StdEncoding.DecodeString(strings.TrimSpace(fields[3])); err != nil {
		return l, fmt.Errorf("blob: %w", err)
	}
	switch pair := l.entry.Algorithm.Pair(); {
	case pair && len(l.public) == 0:
		return l, fmt.Errorf("entry %q is a key pair: give its public half, 65 bytes", name)
	case !pair && len(l.public) != 0:
		return l, fmt.Errorf("entry %q is a symmetric key: leave the public half empty", name)
	}
	if _, err := transport.ReadLabel(l.blob); err != nil {
		return l, err
	}
	return l, nil
}
