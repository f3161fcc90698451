package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

type transportCmd struct {
	Show transportShowCmd `cmd:"" help:"Show the SPP's transport key, to which keys from outside are wrapped."`
}

type transportShowCmd struct {
	console.ConfigFile
	console.Output
	Out console.Path `placeholder:"FILE" help:"Write its public half there too, PEM; a file that is there stays if it holds the same."`
}

func (*transportShowCmd) Help() string {
	return `Whoever makes keys elsewhere wraps each to this key, and spp pool import-keys unwraps it in the HSM. Send the file, and compare the key id another way: who wraps to another key gives the keys to another.`
}

// transportKey is what transport show says.
type transportKey struct {
	Token     string `json:"token"`
	Label     string `json:"label"`
	PublicKey string `json:"public_key"` // key id, in hexadecimal
	PEM       string `json:"pem"`
}

func (k transportKey) String() string {
	t := console.NewTable(console.Columns("token", "label", "public_key")...)
	t.Row(k.Token, k.Label, k.PublicKey)
	return fmt.Sprintf("%s\n%s", t, k.PEM)
}

// Run uses no key, so it needs no entry in the audit log.
func (c *transportShowCmd) Run(ctx context.Context, io console.IO) (err error) {
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
	public, err := keys.TransportKey()
	if err != nil {
		return err
	}
	if c.Out != "" {
		if _, err := publish(c.Out.String(), public.PEM()); err != nil {
			return err
		}
	}
	return c.Print(io.Out, transportKey{Token: tok.Info().Label, Label: config.Realm.Prefix() + "transport", PublicKey: public.ID().String(), PEM: string(public.PEM())})
}
