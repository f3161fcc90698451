package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
)

type setupCmd struct {
	console.ConfigFile
	console.Output
}

// setupResult is what setup says it did; its field names are part of the interface.
type setupResult struct {
	Realm     string    `json:"realm"`
	Token     string    `json:"token"`
	Serial    string    `json:"serial"`
	MadeToken bool      `json:"made_token"`
	Keys      int       `json:"keys"`    // in the token
	Entries   int       `json:"entries"` // appended to the audit log
	ROMKey    string    `json:"rom_key"` // key id
	Files     madeFiles `json:"files"`   // made by this run
}

func (r setupResult) String() string {
	token := "found"
	if r.MadeToken {
		token = "made"
	}
	t := console.NewTable(console.Columns("what", "result")...)
	t.Row("token", fmt.Sprintf("%s %s (serial number %s)", token, r.Token, r.Serial))
	t.Row("keys", fmt.Sprintf("%d, ROM key %s", r.Keys, r.ROMKey))
	t.Row("audit entries", r.Entries)
	for _, f := range r.Files {
		t.Row("wrote", f)
	}
	if len(r.Files) == 0 {
		t.Row("files", "all there already")
	}
	return t.String()
}

func (c *setupCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	if config.Realm != identity.Development {
		return console.Usagef("realm is %s: setup makes development keys, without backup; production keys are born in a ceremony", config.Realm)
	}
	unlock, err := exclusive(c.Config.String(), config.Public.String())
	if err != nil {
		return err
	}
	defer unlock()
	l, err := openLicence(ctx, config, io.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	result := setupResult{Realm: config.Realm.String(), Files: madeFiles{}}
	result.MadeToken, err = ensureToken(ctx, config.Realm, config.Token, config.SOPINFile.String(), func() error {
		return l.ceremony(ctx, maker.Act{Key: config.Token.Token, What: "initialise token"})
	})
	if err != nil {
		return err
	}
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	if err := result.make(ctx, tok, config, l); err != nil {
		return err
	}
	return c.Print(io.Out, result)
}

// make makes keys and files.
func (r *setupResult) make(ctx context.Context, tok *hsm.Token, config Config, l *licence) error {
	plan := config.plan()
	plan.Before = l.ceremony
	if err := importKeys(ctx, tok, plan); err != nil {
		return err
	}
	if err := maker.Create(ctx, tok, plan); err != nil {
		return err
	}
	keys, err := maker.Open(ctx, tok, config.Realm)
	if err != nil {
		return err
	}
	items, err := keys.Inventory(ctx)
	if err != nil {
		return err
	}
	r.Token, r.Serial, r.Keys, r.ROMKey = tok.Info().Label, tok.Info().Serial, len(items), keys.ROMKey().ID().String()
	if err := os.MkdirAll(config.Public.String(), 0o755); err != nil {
		return fmt.Errorf("make the folder for public files: %w", err)
	}
	for _, f := range []struct {
		name string
		pem  []byte
	}{
		{"rom-key.pem", keys.ROMKey().PEM()}, {"submission.pem", keys.SubmissionKey().PEM()}, {"audit.pem", keys.AuditKey().PEM()},
	} {
		path := filepath.Join(config.Public.String(), f.name)
		made, err := publish(path, f.pem)
		if err != nil {
			return err
		}
		r.Files.note(made, path)
	}
	station, device := authorities(config)
	for _, a := range []authority{station, device} {
		made, err := a.publish(ctx, tok, config, l)
		if err != nil {
			return err
		}
		r.Files.note(made, a.path(config))
	}
	r.Entries = l.entries
	if l.entries == 0 {
		return nil
	}
	// The ceremony ends with a signed head, so that nobody can take an entry of it back unseen.
	_, err = l.log.SignHead(ctx, keys.SignAuditHead)
	return err
}
