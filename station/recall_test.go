package station_test

import (
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"

	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/station"
)

// lost is what a fault took from a device and its station.
type lost struct {
	page  string // "", "gone", "torn", "other", "changed", "earlier": what became of the journal's page
	flash string // "", "gone", "changed"
	spp   bool   // the SPP shows no certificate and no backup
}

// recallTest: a device that was confirmed comes back from whatever is left of
// journal, flash and SPP, and says what was lost.
func recallTest(t *testing.T, p *plant) {
	cases := []struct {
		name  string
		point string // where the first station dies
		lost  lost
		ships bool
		notes []string // of the run that goes on
		bad   int      // pages moved aside
	}{
		{name: "nothing lost", point: "before Erase", ships: true},
		{name: "flash", point: "before Restore", ships: true},
		{name: "page", point: "before Erase", lost: lost{page: "gone"}, ships: true},
		{name: "page torn", point: "before Erase", lost: lost{page: "torn"}, ships: true, notes: []string{"moved to"}, bad: 1},
		{name: "page of another device", point: "before Erase", lost: lost{page: "other"}, ships: true, notes: []string{"moved to"}, bad: 1},
		{name: "page with another backup", point: "before Erase", lost: lost{page: "changed"}, ships: true, notes: []string{"not what the SPP has confirmed"}, bad: 1},
		{name: "page of an earlier generation", point: "before Erase", lost: lost{page: "earlier"}, ships: true},
		{name: "page torn, old SPP", point: "before Erase", lost: lost{page: "torn", spp: true}, ships: true, notes: []string{"moved to"}, bad: 1},
		{name: "page and flash", point: "before Restore", lost: lost{page: "gone"}, ships: true, notes: []string{"the SPP's copy"}},
		{name: "page torn, flash lost", point: "before Restore", lost: lost{page: "torn"}, ships: true, notes: []string{"moved to", "the SPP's copy"}, bad: 1},
		{name: "page gone, flash another's", point: "before Erase", lost: lost{page: "gone", flash: "changed"}, ships: true, notes: []string{"the SPP's copy"}},
		{name: "everything", point: "before Restore", lost: lost{page: "gone", spp: true}, ships: false},
		{name: "restored, flash lost", point: "before Published", lost: lost{flash: "gone"}, ships: true, notes: []string{"restored again"}},
		{name: "restored, flash another's", point: "before Published", lost: lost{flash: "changed"}, ships: true, notes: []string{"restored again"}},
		{name: "restored, page and flash lost", point: "before Published", lost: lost{page: "gone", flash: "gone"}, ships: true, notes: []string{"the SPP's copy", "restored again"}},
		{name: "restored, page lost", point: "before Published", lost: lost{page: "gone"}, ships: true},
		{name: "restored, everything lost", point: "before Published", lost: lost{page: "gone", flash: "gone", spp: true}, ships: false},
	}
	boards := p.boards(t, len(cases)+1)
	// The other device's flash and page, for what is swapped.
	other := boards[len(cases)]
	foreign := p.line(t, 1, nil)
	dieAt(t, foreign, other, "before Published")
	t.Run("all", func(t *testing.T) {
		for i, c := range cases {
			t.Run(c.name, func(t *testing.T) {
				t.Parallel()
				b := boards[i]
				l := p.line(t, 1, nil)
				dir := filepath.Join(t.TempDir(), "journal")
				var err error
				l.Journal, err = station.OpenJournal(dir)
				must(t, err)
				dieAt(t, l, b, c.point)
				before, _ := p.newest(t, b)
				c.lost.spoil(t, l.Journal, filepath.Join(dir, b.record().String()+".json"), b, other, foreign.Journal)
				switch c.lost.flash {
				case "gone":
					must(t, b.flash.Erase())
				case "changed":
					content, err := other.flash.Identity()
					must(t, err)
					must(t, b.flash.WriteIdentity(content))
				}
				if c.lost.spp {
					l = p.line(t, 1, func(r http.RoundTripper) http.RoundTripper { return oldSPP{r} })
					l.Journal, err = station.OpenJournal(dir)
					must(t, err)
				}
				o := l.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]
				if o.Shipped != c.ships || o.Shipped && (o.Err != nil || !o.Resumed) {
					t.Fatalf("%+v", o)
				}
				for _, note := range c.notes {
					if !slices.ContainsFunc(o.Notes, func(n string) bool { return strings.Contains(n, note) }) {
						t.Errorf("no note says %q: %q", note, o.Notes)
					}
				}
				if len(o.Notes) != len(c.notes) {
					t.Errorf("notes %q, want %q", o.Notes, c.notes)
				}
				if bad, err := filepath.Glob(filepath.Join(dir, "*.bad*")); err != nil || len(bad) != c.bad {
					t.Errorf("moved aside: %q, %v", bad, err)
				}
				if after, _ := p.newest(t, b); after.Identity != before.Identity {
					t.Errorf("identity %s became %s", before.Identity, after.Identity)
				}
				if !c.ships {
					if !strings.Contains(o.Error, "neither the journal nor the flash has its backup") {
						t.Errorf("%s", o.Error)
					}
					return
				}
				if s := b.status(t); !s.Locked || s.Identity != before.Identity.String() {
					t.Errorf("device: %+v", s)
				}
				if _, ok, err := l.Journal.Read(b.record()); ok || err != nil {
					t.Errorf("a page is left: %v, %v", ok, err)
				}
			})
		}
	})
}

// spoil does to the page what the fault did.
func (l lost) spoil(t *testing.T, j *station.Journal, file string, b, other *board, foreign *station.Journal) {
	t.Helper()
	if l.page == "" {
		return
	}
	page, ok, err := j.Read(b.record())
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	theirs, ok, err := foreign.Read(other.record())
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	switch l.page {
	case "gone":
		must(t, os.Remove(file))
	case "torn":
		must(t, os.Truncate(file, 100))
	case "other":
		raw, err := json.Marshal(theirs)
		must(t, err)
		must(t, os.WriteFile(file, raw, 0o600))
	case "changed":
		page.Backup = theirs.Backup
		must(t, j.Write(page))
	case "earlier":
		page.Generation--
		must(t, j.Write(page))
	default:
		t.Fatal(l.page)
	}
}

// oldSPP is the network to an SPP that shows no copies of backups.
type oldSPP struct{ http.RoundTripper }

func (s oldSPP) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("Accept-Encoding") // the transport then undoes any compression
	res, err := s.RoundTripper.RoundTrip(r)
	if err != nil || !strings.HasSuffix(r.URL.Path, "/Status") || res.StatusCode != http.StatusOK {
		return res, err
	}
	return rewrite(res, func(m *provisioningrpc.StatusResponse) { m.Certificate, m.Backup = nil, nil })
}

// rewrite changes an answer's message.
func rewrite[M any, P interface {
	*M
	proto.Message
}](res *http.Response, change func(P)) (*http.Response, error) {
	raw, err := readBody(res)
	if err != nil {
		return nil, err
	}
	m := P(new(M))
	if err := proto.Unmarshal(raw, m); err != nil {
		return nil, err
	}
	change(m)
	raw, err = proto.Marshal(m)
	return withBody(res, raw), err
}

// twoStations: a board that moved to another station goes on there, with
// the journal left behind; the first station then has nothing to do.
func twoStations(t *testing.T, p *plant) {
	points := []string{"after Accept", "after call Confirm", "before Restore", "after Boot", "before call Publish", "before Published"}
	boards := p.boards(t, len(points))
	t.Run("all", func(t *testing.T) {
		for i, point := range points {
			t.Run(point, func(t *testing.T) {
				t.Parallel()
				b := boards[i]
				hook := func(ctx context.Context, have string) error {
					if b.at == nil {
						return nil
					}
					return b.at(ctx, have)
				}
				first := p.line(t, 1, func(r http.RoundTripper) http.RoundTripper { return wire{r, hook} })
				second := p.unprepared(t, grantOf("line-2"), nil)
				must(t, second.Prepare(t.Context()))
				dieAt(t, first, b, point)
				before, _ := p.newest(t, b)
				if o := second.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]; !o.Shipped || o.Err != nil {
					t.Fatalf("%+v", o)
				}
				after, _ := p.newest(t, b)
				if after.Identity != before.Identity || after.Generation != 1 {
					t.Errorf("identity %s became %s, generation %d", before.Identity, after.Identity, after.Generation)
				}
				b.used()
				if o := first.Run(t.Context(), []station.Fixture{b.fixture()}, drain)[0]; !o.Shipped || !o.Resumed {
					t.Errorf("back at the first station: %+v", o)
				}
				if used := b.used(); len(used) != 0 {
					t.Errorf("a shipped device was used: %q", used)
				}
				for _, l := range []*station.Line{first, second} {
					if entries, err := l.Journal.Entries(); err != nil || len(entries) != 0 {
						t.Errorf("left in a journal: %+v, %v", entries, err)
					}
				}
			})
		}
	})
}
