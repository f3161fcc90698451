package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

type headsCmd struct {
	console.ConfigFile
	console.Output
	Save string `name:"save" type:"path" placeholder:"FILE" help:"Write the newest one, a signed statement, into a new file, to be kept where the database's owner can't change it."`
}

func (c *headsCmd) Run(ctx context.Context, io console.IO) error {
	return withLog(ctx, c.Config, func(config Config, log *audit.Log) error {
		k, err := key(config.AuditKey)
		if err != nil {
			return err
		}
		if k.IsZero() {
			return console.Usagef("no audit_key to check heads with: name it in the configuration")
		}
		heads, err := log.Heads(ctx, k)
		if err != nil {
			return broken(err)
		}
		if _, err := log.Verify(ctx, audit.Head{}, heads, nil); err != nil {
			return broken(err)
		}
		if c.Save != "" {
			if len(heads) == 0 {
				return console.Hint(errors.New("the log has no signed head yet"), "the SPP signs one a minute while it serves")
			}
			if err := save(c.Save, heads[len(heads)-1].Statement); err != nil {
				return err
			}
		}
		t := console.NewTable(console.Columns("seq", "signed", "hash")...)
		for _, h := range heads {
			t.Row(h.Seq, h.At.Format(time.RFC3339), fmt.Sprintf("%x", h.Hash))
		}
		return c.Print(io.Out, t)
	})
}

// save writes a new file, whole and durable or not at all: it is written beside its place, synced, and linked to
// it, which fails where the name is taken. A crash leaves a file that ends in ".new", which the next save overwrites.
func save(path string, b []byte) (err error) {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Link(fresh, path)
	}
	if err = errors.Join(err, os.Remove(fresh)); err != nil {
		return console.Hint(fmt.Errorf("save a head: %w", err), "choose the name of a file that does not exist")
	}
	folder, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
