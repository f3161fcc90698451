package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
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
	Record   string `name:"record" required:"" placeholder:"ID" help:"The device's record id, 64 hexadecimal digits."`
	Reason   string `name:"reason" required:"" placeholder:"TEXT" help:"Why, for the audit log: up to 512 characters."`
	Operator string `name:"operator" required:"" placeholder:"NAME" help:"Who allows it, for the audit log: up to 64 characters."`
}

// unlocked is what statement unlock says.
type unlocked struct {
	Record     identity.RecordID   `json:"record"`
	Identity   string              `json:"identity"`
	Generation identity.Generation `json:"generation"` // the one that it allows
	New        bool                `json:"new"`        // false: the statement was there
}

func (c *unlockCmd) Run(ctx context.Context, out console.IO) error {
	record, err := identity.ParseRecordID(c.Record)
	if err != nil {
		return console.Usagef("%w", err)
	}
	if len(c.Reason) > 512 || len(c.Operator) > 64 || c.Reason == "" || c.Operator == "" {
		return console.Usagef("reason of %d and operator of %d bytes: 1 to 512 and 1 to 64 are allowed", len(c.Reason), len(c.Operator))
	}
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		d, err := s.records.Newest(ctx, record)
		switch {
		case errors.Is(err, records.ErrNotFound):
			return refusal(err, "unknown-device", "look for a slip in the record id: device show prints it")
		case err != nil:
			return err
		case !d.State.InField():
			return refusal(fmt.Errorf("record %s, generation %d, is %s: only a device that was published is unlocked", record.Short(), d.Generation, d.State),
				"state", "finish the device on the line; it needs no statement for that")
		case d.Generation == identity.MaxGeneration:
			return refusal(fmt.Errorf("record %s had its last generation", record.Short()), "state", "scrap the device")
		}
		result := unlocked{Record: record, Identity: d.Identity.String(), Generation: d.Generation + 1}
		before, err := s.records.Unlocked(ctx, record)
		switch {
		case err == nil && before.Next == result.Generation:
			return c.Print(out.Out, result)
		case err != nil && !errors.Is(err, records.ErrNotFound):
			return err
		}
		if err := c.sign(ctx, config, s, record, result.Generation); err != nil {
			return err
		}
		result.New = true
		return c.Print(out.Out, result)
	})
}

// sign makes and keeps the statement, its audit entry first. A crash after the entry leaves a licence that nobody
// used; one after signing a statement that nobody saw.
func (c *unlockCmd) sign(ctx context.Context, config Config, s stores, record identity.RecordID, next identity.Generation) (err error) {
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	keys, err := maker.Open(ctx, tok, config.Realm)
	if err != nil {
		return err
	}
	err = s.records.License(ctx, audit.Event{
		Kind: audit.Unlock, Key: maker.IdentitySigningLabel(config.Realm), Record: record, Generation: next,
		Actor: "operator " + c.Operator, Note: c.Reason,
	})
	if err != nil {
		return err
	}
	signed, err := keys.SignUnlock(ctx, identity.Unlock{Realm: config.Realm, Record: record, Next: next})
	if err != nil {
		return err
	}
	return s.records.Unlock(ctx, record, next, signed, c.Reason, c.Operator)
}
