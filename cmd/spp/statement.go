package main

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

type statementCmd struct {
	Unlock unlockCmd `cmd:"" help:"Let one locked device take one next generation, on the line."`
}

type unlockCmd struct {
	console.ConfigFile
	console.Output
	orderFlags
	Record identity.RecordID `name:"record" required:"" placeholder:"ID" help:"The device's record id, 64 hexadecimal digits."`
}

func (*unlockCmd) Help() string {
	return `Rework: the device goes through the line once more, keeps its identity and gets new keys; its entry supersedes the one before. The statement is for one device and one generation, so a statement that is lost or stolen opens nothing else.`
}

func (*unlockCmd) Examples() string {
	return `
$ spp statement unlock --config spp.yaml \
    --record 9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \
    --reason "board repaired" --operator alice
record      9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
identity    004402000000004
generation  2
new         true
$ station run --config station.yaml --again device-0001`
}

// unlocked is what statement unlock says.
type unlocked struct {
	Record     identity.RecordID   `json:"record"`
	Identity   string              `json:"identity"`
	Generation identity.Generation `json:"generation"` // the one that it allows
	New        bool                `json:"new"`        // false: the statement was there
}

func (c *unlockCmd) Run(ctx context.Context, out console.IO) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		d, err := c.unlockable(ctx, s)
		if err != nil {
			return err
		}
		result := unlocked{Record: c.Record, Identity: d.Identity.String(), Generation: d.Generation + 1}
		before, err := s.records.Unlocked(ctx, c.Record)
		switch {
		case err == nil && before.Next == result.Generation:
			return c.Print(out.Out, result)
		case err != nil && !errors.Is(err, records.ErrNotFound):
			return err
		}
		if err := c.sign(ctx, config, s, result.Generation, o); err != nil {
			return err
		}
		result.New = true
		return c.Print(out.Out, result)
	})
}

// unlockable gives the newest generation of a device that may get a next one: it is in the field, or it was given up
// and an earlier one is in the field.
func (c *unlockCmd) unlockable(ctx context.Context, s stores) (records.Device, error) {
	d, err := s.records.Newest(ctx, c.Record)
	if err != nil {
		return d, declined(err, "")
	}
	if d.State == records.Burned {
		_, err = s.records.InField(ctx, c.Record)
		if err != nil && !errors.Is(err, records.ErrNotFound) {
			return d, err
		}
	}
	switch {
	case err != nil, d.State != records.Burned && !d.State.InField():
		return d, refuseState("finish the device on the line; it needs no statement for that",
			"record %s, generation %d, is %s: only a device that was published is unlocked", c.Record.Short(), d.Generation, d.State)
	case d.Generation == identity.MaxGeneration:
		return d, refuseState("scrap the device: spp device scrap", "record %s had its last generation", c.Record.Short())
	}
	return d, nil
}

// sign makes and keeps the statement, its audit entry first. A crash after the entry leaves a licence that nobody
// used; one after signing a statement that nobody saw. The same command again makes both anew.
func (c *unlockCmd) sign(ctx context.Context, config Config, s stores, next identity.Generation, o records.Order) error {
	return withKeys(ctx, config, func(keys *maker.Keys) error {
		err := s.records.License(ctx, licence(audit.Unlock, config, c.Record, next, o))
		if err != nil {
			return err
		}
		signed, err := keys.SignUnlock(ctx, identity.Unlock{Realm: config.Realm, Record: c.Record, Next: next})
		if err != nil {
			return err
		}
		return s.records.Unlock(ctx, c.Record, next, signed, o.Reason, o.Operator)
	})
}

// licence is the audit entry for one signature of the identity-signing key.
func licence(kind audit.Kind, config Config, record identity.RecordID, g identity.Generation, o records.Order) audit.Event {
	return audit.Event{
		Kind: kind, Key: maker.IdentitySigningLabel(config.Realm), Record: record, Generation: g,
		Actor: "operator " + o.Operator, Note: o.Reason,
	}
}

// withKeys opens the token and the maker's keys on it for one command, beside an spp serve that may use the same token.
func withKeys(ctx context.Context, config Config, f func(*maker.Keys) error) error {
	return withToken(ctx, config, false, func(_ *hsm.Token, keys *maker.Keys) error { return f(keys) })
}

// withToken gives the token too, open for signatures of TLS and CA keys or not.
func withToken(ctx context.Context, config Config, sign bool, f func(*hsm.Token, *maker.Keys) error) (err error) {
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, sign)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	keys, err := maker.Open(ctx, tok, config.Realm)
	if err != nil {
		return err
	}
	return f(tok, keys)
}
