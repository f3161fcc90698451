package main

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

type scrapCmd struct {
	deviceAct
}

func (*scrapCmd) Help() string {
	return `For good: no command brings a scrapped device back, and its identity is never given again but by a board swap (spp device swap). Where the registry has an entry of the device, the identity-signing key signs that it is scrapped, and that statement is published like any other entry; then the token is needed. Where it has none, the token is not opened.

A device whose entry waits for the registry is not scrapped before it is published: else its entry might follow after the statement that ends it.`
}

func (*scrapCmd) Examples() string {
	return `
$ spp device scrap --config spp.yaml \
    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08 \
    --reason "board cracked" --operator alice
record    9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08
identity  004402000000004
act       scrap

generation  before   now
         1  shipped  scrapped

next: destroy the board; the statement waits for the registry: spp outbox list`
}

func (c *scrapCmd) Run(ctx context.Context, out console.IO) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(config Config, s stores) error {
		before, err := s.look(ctx, c.Record)
		if err != nil {
			return err
		}
		next := "destroy the board; the registry never heard of it"
		if _, known := published(before.all); known {
			next = "destroy the board; the statement waits for the registry: spp outbox list"
		}
		if err := scrap(ctx, config, s, before, o); err != nil {
			return err
		}
		r, err := s.report(ctx, records.ActScrap, next, before)
		if err != nil {
			return err
		}
		return c.Print(out.Out, r)
	})
}

// scrap takes a record, as it was just read, out of use. Where the registry knows the device it licenses, signs and keeps
// the statement that ends it, in that order: a crash after the licence leaves one that nobody used, a crash after
// signing a statement that nobody saw, and the same command again makes both anew. What is kept goes to the registry
// through the outbox, by whatever SPP serves. A record that is scrapped already is left as it is.
func scrap(ctx context.Context, config Config, s stores, was seen, o records.Order) error {
	if len(was.all) == 0 {
		return noDevice(was.record)
	}
	if isScrapped(was.all) {
		return nil
	}
	if err := scrappable(was.all); err != nil {
		return err
	}
	keep := func(g identity.Generation, entry []byte) error {
		return declined(s.records.Scrap(ctx, was.record, g, entry, o), "spp device show tells what became of it; if it moved on just now, run the command again")
	}
	last, known := published(was.all)
	if !known {
		return keep(newest(was.all).Generation, nil)
	}
	return withKeys(ctx, config, func(keys *maker.Keys) error {
		e := registry.Entry{Realm: config.Realm, Type: registry.Scrap, Record: was.record, Generation: last.Generation}
		err := s.records.License(ctx, licence(audit.Registry, config, e.Record, e.Generation, o))
		if err != nil {
			return err
		}
		if e.Statement, err = keys.SignRegistryStatement(ctx, e.Leaf()); err != nil {
			return err
		}
		entry, err := e.Encode()
		if err != nil {
			return err
		}
		return keep(e.Generation, entry)
	})
}

// isScrapped tells whether a record is out of use for good; its newest generation says so.
func isScrapped(all []records.Device) bool { return newest(all).State == records.Scrapped }

// active tells whether a generation holds its chip's identity: it is on the line, in the field or quarantined.
func active(d records.Device) bool {
	return d.State.OnLine() || d.State.InField() || d.State == records.Quarantined
}

// scrappable refuses, before a licence is spent, what the records would refuse after it.
func scrappable(all []records.Device) error {
	for _, d := range all {
		if d.SetAside != "" || d.State != records.Restored && d.Held != records.Restored {
			continue
		}
		next := "let it be published, then scrap it: spp outbox list shows what waits, spp serve publishes it"
		if d.State == records.Quarantined {
			next = "release it, let it be published, then scrap it: spp device release, spp outbox list"
		}
		return refusal(fmt.Errorf("the entry of record %s, generation %d, waits for the registry", d.Record.Short(), d.Generation), codePublication, next)
	}
	return nil
}
