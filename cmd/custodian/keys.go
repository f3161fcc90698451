package main

import (
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/hsm/maker"
)

type keysCmd struct {
	console.Output

	Markdown bool `help:"Print the whole document, docs/keys.md, with every attribute and its reason."`
}

func (c *keysCmd) Run(io console.IO) error {
	if c.Markdown {
		if c.JSON {
			return console.Usagef("--markdown and --json exclude each other")
		}
		return maker.WriteMarkdown(io.Out)
	}
	return c.Print(io.Out, roles(maker.Roles()))
}

// roles is the list of kinds; as JSON with who may use a key and what a thief gains, which no table's line holds.
type roles []maker.Role

func (all roles) String() string {
	t := console.NewTable(console.Columns("key", "where", "audited", "backup")...)
	for _, r := range all {
		t.Row(r.Kind.String(), r.Where, r.Audited, r.Backup)
	}
	return t.String()
}

// MarshalJSON gives an array of objects; their field names are part of the interface.
func (all roles) MarshalJSON() ([]byte, error) {
	t := console.NewTable(console.Columns("key", "where", "labels", "audited", "backup", "users", "thief_gains")...)
	for _, r := range all {
		t.Row(r.Kind.String(), r.Where, r.Labels, r.Audited, r.Backup, r.Users, r.Thief)
	}
	return t.MarshalJSON()
}
