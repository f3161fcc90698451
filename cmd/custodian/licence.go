package main

import (
	"context"
	"crypto/rand"
	"database/sql"
	"fmt"
	"log/slog"
	"math/big"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// licence writes the entries that allow the custodian's acts. Each is committed when its method returns. close ends it.
type licence struct {
	db      *sql.DB
	log     *audit.Log
	actor   string
	out     *slog.Logger
	entries int // appended by this run
}

// openLicence connects to the audit log's database and makes sure that it has its tables: no entry, no act.
func openLicence(ctx context.Context, c Config, out *slog.Logger) (*licence, error) {
	const next = "nothing was done: an entry in the audit log comes before every act. Check records in the configuration, and that the database runs and is migrated"
	actor, err := c.actor()
	if err != nil {
		return nil, err
	}
	db, err := c.Records.OpenAt(ctx, 2, records.Migrations, next)
	if err != nil {
		return nil, console.Hint(err, next)
	}
	return &licence{db: db, log: audit.New(db, c.Realm), actor: actor, out: out}, nil
}

func (l *licence) close() error { return l.db.Close() }

func (l *licence) append(ctx context.Context, e audit.Event) error {
	if err := l.log.Append(ctx, e); err != nil {
		return console.Hint(err, "nothing was done: without an entry in the audit log there is no act. Check the database and repeat the command")
	}
	l.entries++
	return nil
}

// ceremony allows the birth of a key, or the use of a master key.
func (l *licence) ceremony(ctx context.Context, a maker.Act) error {
	if err := l.append(ctx, audit.Event{Kind: audit.Ceremony, Key: a.Key, Actor: l.actor, Note: a.What}); err != nil {
		return err
	}
	l.out.InfoContext(ctx, "key ceremony", "key", a.Key, "act", a.What)
	return nil
}

// certify allows one signature of a CA key and gives the serial number that it is for.
func (l *licence) certify(ctx context.Context, caKey, subject string) (*big.Int, error) {
	serial, err := serialNumber()
	if err != nil {
		return nil, err
	}
	if err := l.append(ctx, audit.Certification(caKey, serial, subject, l.actor)); err != nil {
		return nil, err
	}
	l.out.InfoContext(ctx, "certify", "key", caKey, "serial", fmt.Sprintf("%x", serial), "subject", subject)
	return serial, nil
}

// serialNumber draws 127 random bits, never zero: positive and at most 16 bytes (RFC 5280 §4.1.2.2 allows 20).
func serialNumber() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 127)
	n, err := rand.Int(rand.Reader, limit)
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	return n.SetBit(n, 126, 1), nil // so that all have one length in hexadecimal
}
