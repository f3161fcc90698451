package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/identity"
)

type showCmd struct{ deviceFlags }

// shown is what show prints.
type shown struct {
	Name       string              `json:"name"`
	Record     identity.RecordID   `json:"record"`
	Realm      identity.Realm      `json:"realm"`
	Chip       string              `json:"chip"`
	ROMKey     string              `json:"rom_key"`
	Locked     bool                `json:"locked"`
	Floor      identity.Generation `json:"floor"`
	Modules    []module            `json:"modules"`
	Flash      device.FlashState   `json:"flash"`
	Identity   string              `json:"identity"`
	Generation identity.Generation `json:"generation"`
	Keys       []string            `json:"keys"`
	Lacks      []string            `json:"lacks"`
	Problem    string              `json:"problem,omitempty"`
}

type module struct {
	Name   string `json:"name"`
	SHA256 string `json:"sha256"`
	Bytes  int    `json:"bytes"`
}

func (s shown) String() string {
	var b strings.Builder
	line := func(name, format string, args ...any) {
		if text := fmt.Sprintf(format, args...); text != "" {
			fmt.Fprintf(&b, "%-12s%s\n", name, text)
		}
	}
	line("name", "%s", s.Name)
	line("record", "%s", s.Record)
	line("realm", "%s", s.Realm)
	line("chip", "%s", s.Chip)
	line("ROM key", "%s", s.ROMKey)
	line("locked", "%t, generation floor %d", s.Locked, s.Floor)
	for _, m := range s.Modules {
		line("module", "%s, %d bytes, SHA-256 %.16s…", m.Name, m.Bytes, m.SHA256)
	}
	line("flash", "%s", s.Flash)
	if s.Flash == device.FlashProvisioned {
		line("identity", "%s, generation %d", s.Identity, s.Generation)
		line("keys", "%s", strings.Join(s.Keys, ", "))
	}
	line("lacks", "%s", strings.Join(s.Lacks, ", "))
	line("problem", "%s", s.Problem)
	return b.String()
}

func (c *showCmd) Run(ctx context.Context, io console.IO) error {
	return c.with(ctx, io, func(d *device.Device) error {
		s, err := d.Status(ctx)
		if err != nil {
			return err
		}
		out := shown{
			Name: c.Name, Record: s.Record, Realm: s.Realm, Chip: s.Chip, ROMKey: s.ROMKey, Locked: s.Locked, Floor: s.Floor,
			Modules: []module{}, Flash: s.Flash, Identity: s.Identity, Generation: s.Generation,
			Keys: append([]string{}, s.Keys...), Lacks: append([]string{}, s.Lacks...), Problem: s.Problem,
		}
		for _, m := range s.Modules {
			out.Modules = append(out.Modules, module{Name: m.Name, SHA256: hex.EncodeToString(m.SHA256[:]), Bytes: m.Size})
		}
		return c.Print(io.Out, out)
	})
}
