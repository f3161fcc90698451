package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// history is what device show says. Its parts are empty where there was nothing.
type history struct {
	Record      identity.RecordID `json:"record"`
	Chip        *delivered        `json:"chip"` // null: no delivery list names it
	Generations []generation      `json:"generations"`
	Unlocks     []unlockHistory   `json:"unlocks"`
	Swaps       []swapHistory     `json:"swaps"`
	Notices     []noticeHistory   `json:"notices"`
	Orders      []orderHistory    `json:"orders"`
	Incidents   incidents         `json:"incidents"`
}

// delivered is what the delivery list says of the chip.
type delivered struct {
	Maker     string `json:"maker"`
	Lot       string `json:"lot"`
	Contested string `json:"contested"` // why; empty: nobody contests it
}

type generation struct {
	Generation identity.Generation `json:"generation"`
	Identity   string              `json:"identity"`
	Batch      string              `json:"batch"`
	State      records.State       `json:"state"`
	Held       records.State       `json:"held"` // before the quarantine, else empty
	Line       string              `json:"line"`
	Station    string              `json:"station"`
	Begun      time.Time           `json:"begun"`
	Packaged   *time.Time          `json:"packaged"`
	Published  *time.Time          `json:"published"`
	Changed    time.Time           `json:"changed"`
	Sequence   *int64              `json:"sequence"`  // its entry's place in the registry
	SetAside   string              `json:"set_aside"` // why the registry refused the entry
	Reason     string              `json:"reason"`    // of the newest quarantine, abandonment or scrapping
}

type unlockHistory struct {
	Generation identity.Generation `json:"generation"` // the one that was allowed
	At         time.Time           `json:"at"`
	Operator   string              `json:"operator"`
	Reason     string              `json:"reason"`
}

// swapHistory is a board swap that the device is the old or the new board of.
type swapHistory struct {
	From     identity.RecordID `json:"from"`
	To       identity.RecordID `json:"to"`
	Identity string            `json:"identity"`
	At       time.Time         `json:"at"`
	Taken    bool              `json:"taken"`
	Operator string            `json:"operator"`
	Reason   string            `json:"reason"`
}

type noticeHistory struct {
	Type       string              `json:"type"`
	Generation identity.Generation `json:"generation"`
	At         time.Time           `json:"at"`
	Sequence   *int64              `json:"sequence"` // null: it waits or was set aside
	SetAside   string              `json:"set_aside"`
	Operator   string              `json:"operator"`
	Reason     string              `json:"reason"`
}

type orderHistory struct {
	At         time.Time           `json:"at"`
	Act        string              `json:"act"`
	Generation identity.Generation `json:"generation"` // 0: the record as a whole
	Subject    string              `json:"subject"`
	Operator   string              `json:"operator"`
	Reason     string              `json:"reason"`
}

func (h history) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "record  %s\n", h.Record)
	switch {
	case h.Chip == nil:
		b.WriteString("chip    on no delivery list\n")
	case h.Chip.Contested != "":
		fmt.Fprintf(&b, "chip    lot %q of maker %q, contested: %q\n", h.Chip.Lot, h.Chip.Maker, h.Chip.Contested)
	default:
		fmt.Fprintf(&b, "chip    lot %q of maker %q\n", h.Chip.Lot, h.Chip.Maker)
	}
	var rows [][]any
	part := func(name string, columns ...string) {
		if t := filled(columns, rows); t.Len() > 0 {
			fmt.Fprintf(&b, "\n%s\n%s", name, t)
		}
		rows = nil
	}
	for _, g := range h.Generations {
		rows = append(rows, []any{uint32(g.Generation), g.Identity, g.Batch, string(g.State), string(g.Held), g.Line, g.Station,
			g.Begun, at(g.Packaged), at(g.Published), g.Changed, position(g.Sequence), g.SetAside, g.Reason})
	}
	part("generations", "generation", "identity", "batch", "state", "held", "line", "station", "begun", "packaged", "published", "changed", "sequence", "set_aside", "reason")
	for _, u := range h.Unlocks {
		rows = append(rows, []any{uint32(u.Generation), u.At, u.Operator, u.Reason})
	}
	part("unlocked", "generation", "at", "operator", "reason")
	for _, s := range h.Swaps {
		rows = append(rows, []any{s.From.Short(), s.To.Short(), s.Identity, s.At, s.Taken, s.Operator, s.Reason})
	}
	part("swaps", "from", "to", "identity", "at", "taken", "operator", "reason")
	for _, n := range h.Notices {
		rows = append(rows, []any{n.Type, uint32(n.Generation), n.At, position(n.Sequence), n.SetAside, n.Operator, n.Reason})
	}
	part("statements for the registry", "type", "generation", "at", "sequence", "set_aside", "operator", "reason")
	for _, o := range h.Orders {
		rows = append(rows, []any{o.At, o.Act, number(o.Generation), o.Subject, o.Operator, o.Reason})
	}
	part("orders", "at", "act", "generation", "subject", "operator", "reason")
	if len(h.Incidents) > 0 {
		fmt.Fprintf(&b, "\nincidents\n%s", h.Incidents)
	}
	return b.String()
}

// filled makes a table without the columns that are empty in every row: most devices have no trouble to tell of.
func filled(columns []string, rows [][]any) *console.Table {
	var kept []int
	var names []string
	for i, name := range columns {
		if slices.ContainsFunc(rows, func(r []any) bool { return r[i] != nil && r[i] != "" }) {
			kept, names = append(kept, i), append(names, name)
		}
	}
	t := console.NewTable(console.Columns(names...)...)
	for _, r := range rows {
		var cells []any
		for _, i := range kept {
			cells = append(cells, r[i])
		}
		t.Row(cells...)
	}
	return t
}

// A cell of a table where there may be nothing.
func at(t *time.Time) any {
	if t == nil {
		return nil
	}
	return *t
}

func position(n *int64) any {
	if n == nil {
		return nil
	}
	return *n
}

func number(g identity.Generation) any {
	if g == 0 {
		return nil
	}
	return uint32(g)
}
