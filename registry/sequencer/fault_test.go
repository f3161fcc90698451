package sequencer_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
	"github.com/devicekeys/devicekeys/untested"
)

// errCut is what a broken connection looks like.
var errCut = fmt.Errorf("%w: %w", database.ErrCommitUnknown, io.ErrUnexpectedEOF)

// faulty is a log some of whose calls fail: with their effect lost, or kept.
type faulty struct {
	sequencer.Log
	before, after func(call int) error // of Append, counted from 1
	settle        func(call int) error
	appends       atomic.Int64
	settles       atomic.Int64
}

func (f *faulty) Append(ctx context.Context, head int64, records []identity.RecordID, choose func([]store.Standing) []store.New) (int64, error) {
	call := int(f.appends.Add(1))
	if f.before != nil {
		if err := f.before(call); err != nil {
			return 0, err
		}
	}
	size, err := f.Log.Append(ctx, head, records, choose)
	if f.after != nil && err == nil {
		if err := f.after(call); err != nil {
			return 0, err
		}
	}
	return size, err
}

func (f *faulty) Settle(ctx context.Context, head int64, leaves [][32]byte) (int64, error) {
	call := int(f.settles.Add(1))
	if f.settle != nil {
		if err := f.settle(call); err != nil {
			return 0, err
		}
	}
	return f.Log.Settle(ctx, head, leaves)
}

func on(calls ...int) func(int) error {
	return func(n int) error {
		for _, c := range calls {
			if n == c {
				return errCut
			}
		}
		return nil
	}
}

// Every call fails once with its effect lost and once with its effect kept. The
// submitter gets the true answer, and nothing stands twice.
func TestLostAnswers(t *testing.T) {
	t.Parallel()
	for name, f := range map[string]*faulty{
		"nothing fails":                     {},
		"the effect is lost":                {before: on(1)},
		"the effect is kept":                {after: on(1)},
		"lost, then kept":                   {before: on(1), after: on(2)},
		"kept, and settling fails twice":    {after: on(1), settle: on(1, 2)},
		"lost again and again":              {before: on(1, 2, 3)},
		"the repetition's answer gets lost": {before: on(1), after: on(2), settle: on(1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := storetest.New(t)
			f.Log = store.NewWriter(d.Open(d.Roles.Sequencer))
			r := start(t, f)
			c := r.spp(t)
			a, b := registrytest.Entry(t, 1, 1), registrytest.Entry(t, 2, 1)
			first := submit(t, c, a, b)
			again := submit(t, c, b, a)
			for i, ack := range []sequencer.Ack{first[0], first[1], again[1], again[0]} {
				if ack.Err != nil || ack.Sequence != int64(i%2) {
					t.Errorf("answer %d: %d, %v", i, ack.Sequence, ack.Err)
				}
			}
			if rows := verify(t, d.Reader(), 2); len(rows) == 2 && (!rows[0].Entry.Equal(a) || !rows[1].Entry.Equal(b)) {
				t.Error("other entries stand")
			}
			if err := r.stop(); err != nil {
				t.Error(err)
			}
		})
	}
}

// An answer that stays lost is told as unknown, and found out before anything
// else is written.
func TestUnknownToTheEnd(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	down := atomic.Bool{}
	down.Store(true)
	cut := func(int) error {
		if down.Load() {
			return errCut
		}
		return nil
	}
	f := &faulty{Log: store.NewWriter(d.Open(d.Roles.Sequencer)), after: cut, settle: cut}
	r := start(t, f)
	c := r.spp(t)
	raw := submission(t, registrytest.Entry(t, 1, 1))
	_, err := c.Submit(t.Context(), raw)
	if after, ok := sequencer.Retry(err); connect.CodeOf(err) != connect.CodeUnavailable || !ok || after <= 0 {
		t.Fatalf("while the outcome is unknown: %v", err)
	}
	begin := time.Now()
	if _, err := c.Submit(t.Context(), submission(t, registrytest.Entry(t, 2, 1))); connect.CodeOf(err) != connect.CodeUnavailable {
		t.Fatalf("while the outcome is unknown: %v", err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("a submitter waited %s for a database known to be down", took)
	}
	if f.appends.Load() != 1 {
		t.Errorf("something was written while the outcome was unknown: %d appends", f.appends.Load())
	}
	down.Store(false)
	if acks := submit(t, c, registrytest.Entry(t, 3, 1)); acks[0].Sequence != 1 {
		t.Errorf("the next entry got %d", acks[0].Sequence)
	}
	acks, err := c.Submit(t.Context(), raw)
	if err != nil || acks[0].Err != nil || acks[0].Sequence != 0 {
		t.Errorf("the first one, asked again: %+v, %v", acks, err)
	}
	verify(t, d.Reader(), 2)
	if n := r.metric(t, "devicekeys_sequencer_unknown_commits_total"); n != 1 {
		t.Errorf("unknown commits counted: %g", n)
	}
}

// An error that will come again is not tried again.
func TestHopelessBatch(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	f := &faulty{Log: store.NewWriter(d.Open(d.Roles.Sequencer)), before: func(n int) error {
		if n == 1 {
			return errors.New("the table is gone")
		}
		return nil
	}}
	r := start(t, f)
	c := r.spp(t)
	_, err := c.Submit(t.Context(), submission(t, registrytest.Entry(t, 1, 1)))
	if _, again := sequencer.Retry(err); connect.CodeOf(err) != connect.CodeInternal || again {
		t.Errorf("the answer: %v", err)
	}
	submit(t, c, registrytest.Entry(t, 1, 1))
	verify(t, d.Reader(), 1)
}

// A full queue sends submitters away, and takes them again later.
func TestBackpressure(t *testing.T) {
	t.Parallel()
	d := storetest.New(t)
	release := make(chan struct{})
	f := &faulty{Log: store.NewWriter(d.Open(d.Roles.Sequencer)), before: func(int) error { <-release; return nil }}
	r := start(t, f, func(o *sequencer.Options) { o.QueueBytes = registry.MaxSubmission })
	c := r.spp(t)
	// Four submissions of 5 MB: three fit into the queue, whoever comes first.
	var raws [][]byte
	for i := range 4 {
		s := registry.Submission{Realm: identity.Development, Submitter: submitterName}
		for range 80 {
			s.Entries = append(s.Entries, make([]byte, 65_000))
		}
		s.Entries = append(s.Entries, registrytest.Encode(t, registrytest.Entry(t, i, 1)))
		raw, err := registry.SignSubmission(t.Context(), submissionKey(t), s)
		if err != nil {
			t.Fatal(err)
		}
		raws = append(raws, raw)
	}
	var busy atomic.Int64
	var wg sync.WaitGroup
	for _, raw := range raws {
		wg.Go(func() {
			acks, err := c.Submit(t.Context(), raw)
			for err != nil {
				if connect.CodeOf(err) != connect.CodeResourceExhausted {
					t.Errorf("a full queue: %v", err)
					return
				}
				if after, ok := sequencer.Retry(err); !ok || after != time.Second {
					t.Errorf("when to come back: %s, %v", after, ok)
				}
				if busy.Add(1) == 1 {
					close(release)
				}
				time.Sleep(10 * time.Millisecond)
				acks, err = c.Submit(t.Context(), raw)
			}
			if acks[80].Err != nil || acks[0].Err == nil {
				t.Errorf("answers: %v, %v", acks[80].Err, acks[0].Err)
			}
		})
	}
	wg.Wait()
	if busy.Load() == 0 {
		t.Error("nobody was sent away")
	}
	verify(t, d.Reader(), 4)
	if n := r.metric(t, "devicekeys_sequencer_queue_bytes"); n != 0 {
		t.Errorf("%g bytes are left in an empty queue", n)
	}
	// Beyond the limit of one message there is nothing to wait for.
	_, err := c.Submit(t.Context(), make([]byte, registry.MaxSubmission+1))
	if _, again := sequencer.Retry(err); err == nil || again {
		t.Errorf("beyond the limit: %v", err)
	}
}

// Many submitters at once, some of them with the same entries, while
// connections are cut and the sequencer is stopped and started: every answer is
// true, and every entry stands once.
func TestConcurrentSubmitters(t *testing.T) {
	t.Parallel()
	const submitters, rounds, size = 8, 12, 5
	d := storetest.New(t)
	admin := d.Open(d.Roles.Sequencer) // a role may end its own connections
	var current atomic.Pointer[sequencer.Client]
	boot := func() *rig {
		r := start(t, store.NewWriter(d.Open(d.Roles.Sequencer)))
		current.Store(r.spp(t))
		return r
	}
	r := boot()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()

	var mu sync.Mutex
	answers := map[[32]byte]int64{}
	var wg sync.WaitGroup
	for s := range submitters {
		wg.Go(func() {
			for round := range rounds {
				var entries []registry.Entry
				for i := range size {
					// Submitters 0 and 1 bring the same chips with other bytes; the rest their own.
					chip := max(s, 1)*10_000 + round*size + i
					entries = append(entries, registrytest.Entry(t, chip, 1))
				}
				raw := submission(t, entries...)
				for range 2 { // and once more, as one who wasn't told
					acks, err := persist(ctx, current.Load, raw)
					if err != nil {
						t.Errorf("submitter %d: %v", s, err)
						return
					}
					for i, ack := range acks {
						if ack.Err != nil && !(s <= 1 && errors.Is(ack.Err, sequencer.ErrConflict)) {
							t.Errorf("submitter %d: %v", s, ack.Err)
						}
						if ack.Err != nil {
							continue
						}
						mu.Lock()
						if was, ok := answers[entries[i].LeafHash()]; ok && was != ack.Sequence {
							t.Errorf("an entry stands at %d and at %d", was, ack.Sequence)
						}
						answers[entries[i].LeafHash()] = ack.Sequence
						mu.Unlock()
					}
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { wg.Wait(); close(done) }()
	disturb(t, done, func(n int) {
		if n%4 == 3 { // a new sequencer takes over
			if err := r.stop(); err != nil {
				t.Error(err)
			}
			r = boot()
			return
		}
		// Others' connections are not ours to count: one may end as we look.
		_, err := admin.ExecContext(ctx, `select pg_terminate_backend(pid) from pg_stat_activity
			where datname = current_database() and pid <> pg_backend_pid() and usename = current_user`)
		if err != nil {
			t.Error(err)
		}
	})
	rows := verify(t, d.Reader(), int64((submitters-1)*rounds*size))
	if len(rows) != len(answers) {
		t.Errorf("%d entries stand and %d were acknowledged", len(rows), len(answers))
	}
	for _, row := range rows {
		if at, ok := answers[row.LeafHash]; !ok || at != row.Sequence {
			t.Errorf("entry %d was acknowledged: %v, at %d", row.Sequence, ok, at)
		}
	}
}

// disturb acts at odd moments until done is closed.
func disturb(t *testing.T, done <-chan struct{}, act func(int)) {
	t.Helper()
	for n := 0; ; n++ {
		select {
		case <-done:
			if n < 5 {
				t.Errorf("the work was done after %d disturbances: too few to mean anything", n)
			}
			return
		case <-time.After(20*time.Millisecond + rand.N(60*time.Millisecond)):
			act(n)
		}
	}
}

// The database is killed in the middle of the work and started again: what was
// acknowledged stands.
func TestDatabaseKilled(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	boot := func() *postgres.Server {
		s, err := postgres.Start(t.Context(), postgres.Config{Dir: folder + "/pg", Durable: true})
		if errors.Is(err, postgres.ErrNotInstalled) {
			untested.Skip(t, "%v", err)
		}
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	server := boot()
	t.Cleanup(func() { _ = server.Stop(context.Background()) }) // it has nothing that is needed
	if _, err := server.Role(t.Context(), "registry_owner"); err != nil {
		t.Fatal(err)
	}
	file, err := server.Role(t.Context(), "sequencer")
	if err != nil {
		t.Fatal(err)
	}
	if err := server.CreateDatabase(t.Context(), "registry", "registry_owner", "sequencer"); err != nil {
		t.Fatal(err)
	}
	ownerFile, err := server.Role(t.Context(), "registry_owner")
	if err != nil {
		t.Fatal(err)
	}
	owner, err := database.Open(t.Context(), database.Config{DSN: server.DSN("registry", "registry_owner"), PasswordFile: ownerFile})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.Migrate(t.Context(), owner, store.Roles{Sequencer: "sequencer"}); err != nil {
		t.Fatal(err)
	}
	_ = owner.Close() // the server is killed next
	db, err := database.Open(t.Context(), database.Config{DSN: server.DSN("registry", "sequencer"), PasswordFile: file})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	r := start(t, store.NewWriter(db))
	c := r.spp(t)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	var mu sync.Mutex
	acked := map[[32]byte]int64{}
	var wg sync.WaitGroup
	for s := range 4 {
		wg.Go(func() {
			for round := range 40 {
				e := registrytest.Entry(t, s*1000+round, 1)
				acks, err := persist(ctx, func() *sequencer.Client { return c }, submission(t, e))
				if err != nil || acks[0].Err != nil {
					t.Errorf("submitter %d: %v %v", s, acks, err)
					return
				}
				mu.Lock()
				acked[e.LeafHash()] = acks[0].Sequence
				mu.Unlock()
				time.Sleep(5 * time.Millisecond)
			}
		})
	}
	time.Sleep(100 * time.Millisecond)
	if err := server.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Check(ctx); err == nil {
		t.Error("a sequencer without database calls itself healthy")
	}
	server = boot()
	wg.Wait()
	reader, err := store.NewReader(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	rows := verify(t, reader, 160)
	for _, row := range rows {
		if at, ok := acked[row.LeafHash]; !ok || at != row.Sequence {
			t.Errorf("entry %d was acknowledged: %v, at %d", row.Sequence, ok, at)
		}
	}
}
