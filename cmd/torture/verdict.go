package main

import (
	"fmt"
	"strings"
)

// verdict is what must hold in the end.
type verdict struct {
	Shipped      int         `json:"shipped"`
	Acknowledged int         `json:"acknowledged"` // devices that a station was told are published, also by one that was killed then
	Lost         []string    `json:"lost"`         // acknowledged and not found, or another
	Duplicates   []string    `json:"duplicates"`   // identities of two devices
	Wrong        []string    `json:"wrong"`        // devices that don't agree with the records
	Unfinished   []string    `json:"unfinished"`   // not shipped, with their newest error
	Wiped        int         `json:"wiped"`        // devices restored from the registry: tried
	Restored     int         `json:"restored"`     // and the same as before
	Invariants   []invariant `json:"invariants"`
}

// invariant is one result of auditor check.
type invariant struct {
	Number     int    `json:"number"`
	Name       string `json:"name"`
	Holds      bool   `json:"holds"`
	Checked    int64  `json:"checked"`
	Found      int64  `json:"found"`
	Violations []struct {
		Device string   `json:"device"`
		Rows   []string `json:"rows"`
		Cause  string   `json:"cause"`
	} `json:"violations"`
	Unread string `json:"unread,omitempty"`
}

// maxNamed bounds each list of a verdict: with more, the number says enough.
const maxNamed = 100

// add appends to a list of bounded length.
func add(list []string, format string, args ...any) []string {
	if len(list) >= maxNamed {
		return list
	}
	return append(list, fmt.Sprintf(format, args...))
}

// wrong says what is not as it must be.
func (v verdict) wrong(strange int) []string {
	var wrong []string
	count := func(n int, what string) {
		if n > 0 {
			wrong = append(wrong, fmt.Sprintf("%d %s", n, what))
		}
	}
	count(len(v.Lost), "lost")
	count(len(v.Duplicates), "duplicates")
	count(len(v.Wrong), "devices are not what the records say")
	count(len(v.Unfinished), "devices not shipped")
	count(v.Wiped-v.Restored, "devices not restored")
	count(strange, "strange things")
	for _, i := range v.Invariants {
		if !i.Holds {
			wrong = append(wrong, i.Name+" does not hold")
		}
	}
	if len(v.Invariants) == 0 || v.Acknowledged == 0 {
		wrong = append(wrong, "nothing was checked")
	}
	return wrong
}

// rows is the verdict as two columns.
func (v verdict) rows() [][2]string {
	holds := 0
	for _, i := range v.Invariants {
		if i.Holds {
			holds++
		}
	}
	return [][2]string{
		{"shipped", fmt.Sprint(v.Shipped)},
		{"acknowledged", fmt.Sprint(v.Acknowledged)},
		{"lost", fmt.Sprint(len(v.Lost))},
		{"duplicates", fmt.Sprint(len(v.Duplicates))},
		{"restored from the registry", fmt.Sprintf("%d of %d, %s", v.Restored, v.Wiped, percent(v.Restored, v.Wiped))},
		{"invariants that hold", fmt.Sprintf("%d of %d", holds, len(v.Invariants))},
	}
}

func percent(n, of int) string {
	if of == 0 {
		return "none tried"
	}
	return fmt.Sprintf("%.4g %%", 100*float64(n)/float64(of))
}

// rowFormat is a line of a report in text.
const rowFormat = "%-38s %s\n"

// String is what was found, for people: numbers and then what is wrong.
func (v verdict) String() string {
	var b strings.Builder
	for _, list := range [][]string{v.Lost, v.Duplicates, v.Wrong, v.Unfinished} {
		for _, line := range list {
			fmt.Fprintf(&b, "  ✗ %s\n", line)
		}
	}
	for _, i := range v.Invariants {
		for _, violation := range i.Violations {
			fmt.Fprintf(&b, "  ✗ %s: record %s: %s\n    in %s\n", i.Name, violation.Device, violation.Cause, strings.Join(violation.Rows, ", "))
		}
		if i.Unread != "" {
			fmt.Fprintf(&b, "  ✗ %s: could not be checked: %s\n", i.Name, i.Unread)
		}
	}
	return b.String()
}
