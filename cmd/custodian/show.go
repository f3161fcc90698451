package main

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
)

type showCmd struct {
	console.ConfigFile
	console.Output
}

// inventory is a token's keys; as JSON with all attributes, in text with those that matter most.
type inventory struct {
	Token  string       `json:"token"`
	Serial string       `json:"serial"`
	Keys   []maker.Item `json:"keys"`
}

func (i inventory) String() string {
	t := console.NewTable(console.Columns("label", "kind", "kdf", "public_key", "sensitive", "extractable", "modifiable", "mechanisms")...)
	for _, k := range i.Keys {
		var kdf any
		if k.KDF != 0 {
			kdf = uint8(k.KDF)
		}
		t.Row(k.Label, k.Kind, kdf, k.PublicKey, k.Value("CKA_SENSITIVE"), k.Value("CKA_EXTRACTABLE"), k.Value("CKA_MODIFIABLE"), k.Value("CKA_ALLOWED_MECHANISMS"))
	}
	return t.String()
}

// Run reads attributes and uses no key, so it needs no entry in the audit log.
func (c *showCmd) Run(ctx context.Context, io console.IO) (err error) {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	ring, err := openKeyRing(ctx, config)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, ring.close()) }()
	tok, keys := ring.tok, ring.keys
	result := inventory{Token: tok.Info().Label, Serial: tok.Info().Serial}
	if result.Keys, err = keys.Inventory(ctx); err != nil {
		return err
	}
	tls, err := maker.Inspect(ctx, tok, hsm.Spec{Kind: hsm.TLSKey, Label: tokenconfig.TLSKeyLabel(config.Realm, "spp")})
	switch {
	case err == nil:
		result.Keys = append(result.Keys, tls)
	case !errors.Is(err, hsm.ErrNoKey):
		return err
	}
	return c.Print(io.Out, result)
}
