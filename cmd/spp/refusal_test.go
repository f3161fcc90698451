package main

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
)

// tester is a test as a player.
type tester struct{ *testing.T }

func (t tester) Check(err error) {
	t.Helper()
	must(t, err)
}

func (tester) Setenv(string, string) {} // a test asks the scene

// TestRefusals: each thing that is declined has its code and its next step, whatever the words.
func TestRefusals(t *testing.T) {
	t.Parallel()
	p := newPlace(t, t.TempDir(), "https://127.0.0.1:1")
	p.run("spp", "migrate", "-c", "spp.yaml")
	p.write("imeis.csv", []byte("00440200,000100,000119\n"))
	p.run("spp", "pool", "import", "-c", "spp.yaml", "--batch", "one", "--line", "phone", "imeis.csv")
	s := onStage{tester{t}, (&scene{place: p}).open()}
	for _, d := range [][]string{{"SHIPPED", "shipped"}, {"OTHER", "shipped"}, {"WAITS", "restored"}, {"WORK", "packaged"}, {"OLD", "confirmed"}, {"GONE", "reserved"}, {"BURNED", "reserved"}} {
		s.device(d)
	}
	s.chip("BOARD")
	s.chip("CLONED")
	_, boardChip := newDevice(t)
	must(t, s.records.Contest(t.Context(), s.record("CLONED"), "two lists", nil))
	p.deliver("delivery.cose", "chip maker", boardChip)
	p.run("spp", "chips", "import", "-c", "spp.yaml", "delivery.cose")
	_, other := newDevice(t)
	p.deliverContradiction("clone.cose", boardChip, other)

	file := console.ConfigFile{Config: console.Path(filepath.Join(p.dir, "spp.yaml"))}
	why := orderFlags{Reason: "the test says so", Operator: "alice"}
	on := func(record identity.RecordID) deviceAct {
		return deviceAct{ConfigFile: file, orderFlags: why, deviceArg: deviceArg{record}}
	}
	swap := func(from, to identity.RecordID) *swapCmd {
		return &swapCmd{ConfigFile: file, orderFlags: why, From: from, To: to}
	}
	burn := func(imei string) *poolBurnCmd {
		return &poolBurnCmd{ConfigFile: file, orderFlags: why, Identity: imei, Type: identity.TypeIMEI}
	}
	scrap := &scrapCmd{on(s.record("GONE"))}
	must(t, scrap.Run(t.Context(), console.IO{Out: &bytes.Buffer{}, Log: slog.New(slog.DiscardHandler)}))
	lost := burn("00440200000106")
	must(t, lost.Run(t.Context(), console.IO{Out: &bytes.Buffer{}, Log: slog.New(slog.DiscardHandler)}))
	nobody := identity.RecordID{1}
	for name, c := range map[string]struct {
		command interface {
			Run(context.Context, console.IO) error
		}
		code string
	}{
		"show nobody":                     {&deviceShowCmd{ConfigFile: file, deviceArg: deviceArg{nobody}}, codeUnknownDevice},
		"quarantine nobody":               {&quarantineCmd{on(nobody)}, codeUnknownDevice},
		"quarantine what is scrapped":     {&quarantineCmd{on(s.record("GONE"))}, codeState},
		"release nobody":                  {&releaseCmd{on(nobody)}, codeUnknownDevice},
		"release what is scrapped":        {&releaseCmd{on(s.record("GONE"))}, codeState},
		"return what is on the line":      {&returnCmd{on(s.record("WORK"))}, codeState},
		"abandon a first generation":      {&abandonCmd{on(s.record("WORK")), 1}, codeState},
		"abandon one that isn't there":    {&abandonCmd{on(s.record("WORK")), 7}, codeUnknownDevice},
		"scrap nobody":                    {&scrapCmd{on(nobody)}, codeUnknownDevice},
		"scrap what waits":                {&scrapCmd{on(s.record("WAITS"))}, codePublication},
		"swap nobody":                     {swap(nobody, s.record("BOARD")), codeUnknownDevice},
		"swap for an unlisted chip":       {swap(s.record("OLD"), nobody), codeUnlistedChip},
		"swap for a contested chip":       {swap(s.record("OLD"), s.record("CLONED")), codeContested},
		"swap for a device":               {swap(s.record("OLD"), s.record("OTHER")), codeActive},
		"swap for a scrapped one":         {swap(s.record("OLD"), s.record("GONE")), codeState},
		"swap what was burned":            {swap(s.record("BURNED"), s.record("BOARD")), codeState},
		"swap what waits":                 {swap(s.record("WAITS"), s.record("BOARD")), codePublication},
		"unplan what isn't planned":       {&unplanCmd{on(s.record("BOARD"))}, codeState},
		"unlock what is on the line":      {&unlockCmd{ConfigFile: file, orderFlags: why, Record: s.record("WORK")}, codeState},
		"unlock nobody":                   {&unlockCmd{ConfigFile: file, orderFlags: why, Record: nobody}, codeUnknownDevice},
		"retry an entry that isn't there": {&outboxRetryCmd{ConfigFile: file, orderFlags: why, deviceArg: deviceArg{nobody}, Generation: 1, Type: ownEntry}, codeUnknownEntry},
		"retry what has no entry":         {&outboxRetryCmd{ConfigFile: file, orderFlags: why, deviceArg: deviceArg{s.record("WORK")}, Generation: 1, Type: ownEntry}, codeState},
		"burn what is published":          {burn("00440200000100"), codeState},
		"burn what was scrapped":          {burn("00440200000105"), codeState},
		"burn what nobody knows":          {burn("00440200999999"), codeUnknownIdentity},
		"import a contradiction":          {&chipsImportCmd{ConfigFile: file, List: filepath.Join(p.dir, "clone.cose")}, codeContested},
	} {
		err := c.command.Run(t.Context(), console.IO{Out: &bytes.Buffer{}, Log: slog.New(slog.DiscardHandler)})
		var refused interface{ Refused() string }
		if !errors.As(err, &refused) || refused.Refused() != c.code {
			t.Errorf("%s: %v, want code %q", name, err, c.code)
			continue
		}
		var next interface{ Next() string }
		if !errors.As(err, &next) || strings.TrimSpace(next.Next()) == "" {
			t.Errorf("%s: %v: no next step", name, err)
		}
	}

	// None of them changed anything.
	for name, want := range map[string]string{"SHIPPED": "shipped", "WAITS": "restored", "WORK": "packaged", "OLD": "confirmed", "GONE": "scrapped", "BURNED": "burned"} {
		if d, err := s.records.Newest(t.Context(), s.record(name)); err != nil || string(d.State) != want {
			t.Errorf("%s is %s, %v, want %s", name, d.State, err, want)
		}
	}
	if n, err := s.records.ChipCount(t.Context()); err != nil || n != 10 {
		t.Errorf("%d chips, %v, want 10", n, err)
	}
}
