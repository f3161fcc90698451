package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type logCmd struct {
	console.ConfigFile
	console.Output
	Head   console.Path `name:"head" placeholder:"FILE" help:"A signed head kept elsewhere (heads --save): the log must lead through it."`
	Kind   string       `name:"kind" placeholder:"KIND" enum:",assemble,device-key,unlock,registry,certify,ceremony,check,order" default:"" help:"Show entries of one kind only."`
	Record string       `name:"record" placeholder:"ID" help:"Show entries about one record only, by its id or the beginning of it."`
	Last   int          `name:"last" default:"50" placeholder:"N" help:"Show the newest N of them (default 50); 0 shows none and verifies only."`
}

// logResult is what log says.
type logResult struct {
	Entries     int64      `json:"entries"`
	Hash        string     `json:"hash"` // of the last entry
	At          *time.Time `json:"at"`   // of the last entry
	SignedHeads int        `json:"signed_heads"`
	SignedTo    int64      `json:"signed_to"` // the newest entry under a signed head
	Shown       []logEntry `json:"shown"`
}

type logEntry struct {
	Seq        int64               `json:"seq"`
	At         time.Time           `json:"at"`
	Kind       audit.Kind          `json:"kind"`
	Key        string              `json:"key"`
	Record     string              `json:"record,omitempty"`
	Generation identity.Generation `json:"generation,omitempty"`
	Actor      string              `json:"actor"`
	Note       string              `json:"note,omitempty"`
}

func (r logResult) String() string {
	var b strings.Builder
	if len(r.Shown) > 0 {
		t := console.NewTable(console.Columns("seq", "at", "kind", "key", "record", "generation", "actor", "note")...)
		for _, e := range r.Shown {
			var generation any
			if e.Generation != 0 {
				generation = uint32(e.Generation)
			}
			t.Row(e.Seq, e.At, string(e.Kind), e.Key, e.Record, generation, e.Actor, e.Note)
		}
		fmt.Fprintf(&b, "%s\n", t)
	}
	fmt.Fprintf(&b, "✓ %d entries in unbroken order", r.Entries)
	switch {
	case r.Entries > 0 && r.SignedHeads > 0:
		fmt.Fprintf(&b, ", %d signed heads, the newest at entry %d\n", r.SignedHeads, r.SignedTo)
	default:
		b.WriteString(", no signed head was checked\n")
	}
	return b.String()
}

func (c *logCmd) Run(ctx context.Context, io console.IO) error {
	if c.Last < 0 {
		return console.Usagef("--last is %d: 0 or more is expected", c.Last)
	}
	return withLog(ctx, c.Config, func(config Config, log *audit.Log) error {
		heads, err := config.heads(ctx, log, c.Head)
		if err != nil {
			return broken(err)
		}
		r := logResult{SignedHeads: len(heads), Shown: []logEntry{}}
		for _, h := range heads {
			r.SignedTo = max(r.SignedTo, h.Seq)
		}
		end, err := log.Verify(ctx, audit.Head{}, heads, func(e audit.Entry) error {
			if c.shows(e) {
				r.Shown = append(r.Shown, show(e))
				if len(r.Shown) > 2*c.Last { // drop old ones now and then, not each time
					r.Shown = append([]logEntry{}, r.Shown[len(r.Shown)-c.Last:]...)
				}
			}
			return nil
		})
		if err != nil {
			return broken(err)
		}
		r.Shown = r.Shown[max(0, len(r.Shown)-c.Last):]
		r.Entries = end.Seq
		if end.Seq > 0 {
			r.Hash, r.At = fmt.Sprintf("%x", end.Hash), &end.At
		}
		return c.Print(io.Out, r)
	})
}

func (c *logCmd) shows(e audit.Entry) bool {
	return c.Last > 0 && (c.Kind == "" || audit.Kind(c.Kind) == e.Kind) &&
		(c.Record == "" || e.Record != (identity.RecordID{}) && strings.HasPrefix(e.Record.String(), c.Record))
}

func show(e audit.Entry) logEntry {
	s := logEntry{Seq: e.Seq, At: e.At.UTC(), Kind: e.Kind, Key: e.Key, Generation: e.Generation, Actor: e.Actor, Note: e.Note}
	if e.Record != (identity.RecordID{}) {
		s.Record = e.Record.Short()
	}
	return s
}

// withLog opens the audit log that the configuration names.
func withLog(ctx context.Context, path console.Path, do func(Config, *audit.Log) error) (err error) {
	var config Config
	if err := console.LoadConfig(path.String(), &config); err != nil {
		return err
	}
	db, err := config.Records.OpenAt(ctx, conns, records.Migrations, oldSchema)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, db.Close()) }()
	return do(config, audit.New(db, config.Realm))
}

// heads gives the signed heads kept in the database, if there is a key to check them with, and the one kept in a file.
func (c Config) heads(ctx context.Context, log *audit.Log, file console.Path) ([]audit.Head, error) {
	k, err := key(c.AuditKey)
	if err != nil {
		return nil, err
	}
	var heads []audit.Head
	if !k.IsZero() {
		if heads, err = log.Heads(ctx, k); err != nil {
			return nil, err
		}
	}
	if file == "" {
		file = c.KeptHead
	}
	kept, err := c.head(file)
	if err != nil {
		return nil, err
	}
	if kept.Seq > 0 {
		heads = append(heads, kept)
	}
	return heads, nil
}

// head reads a signed head from a file; the zero head where none is named.
func (c Config) head(path console.Path) (audit.Head, error) {
	if path == "" {
		return audit.Head{}, nil
	}
	k, err := key(c.AuditKey)
	if err != nil {
		return audit.Head{}, err
	}
	if k.IsZero() {
		return audit.Head{}, console.Usagef("a kept head, but no audit_key to check it with: name it in the configuration")
	}
	raw, err := readFile(path)
	if err != nil {
		return audit.Head{}, err
	}
	h, err := audit.ParseHead(raw, k)
	if err == nil && h.Realm != c.Realm {
		err = fmt.Errorf("it is of the %s realm", h.Realm)
	}
	if err != nil {
		return audit.Head{}, console.Hint(fmt.Errorf("read head %s: %w", path, err), "is it a head of this maker's log, and audit_key the right key?")
	}
	return h, nil
}

// broken adds the next step to a log that was tampered with.
func broken(err error) error {
	if errors.Is(err, audit.ErrBroken) {
		return console.Hint(err, "stop the SPP, keep the database as it is, and compare with the last backup")
	}
	return err
}
