package audit_test

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/statement"
	"github.com/google/go-cmp/cmp"
)

func sampleEvent(n int) audit.Event {
	e := audit.Event{Kind: audit.Check, Key: "dev-master-1", Actor: "ann", Note: fmt.Sprintf("number %d", n)}
	if n%2 == 0 {
		e.Kind, e.Record, e.Generation = audit.Assemble, sha256.Sum256([]byte{byte(n)}), 1
	}
	return e
}

// fill appends n entries.
func fill(t testing.TB, l *audit.Log, n int) {
	t.Helper()
	for i := range n {
		if err := l.Append(t.Context(), sampleEvent(i+1)); err != nil {
			t.Fatal(err)
		}
	}
}

// signer signs heads with a software key.
func signer(t testing.TB, name string) (statement.PublicKey, func(context.Context, []byte) ([]byte, error)) {
	key := registrytest.NewSigner(t, name)
	return key.Public(), func(ctx context.Context, payload []byte) ([]byte, error) {
		return statement.Sign(ctx, key, statement.AuditHead, payload)
	}
}

func TestLog(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	l := audit.New(r.As("spp"), identity.Development)
	empty, err := audit.New(r.As("auditor"), identity.Development).Verify(t.Context(), audit.Head{}, nil, nil)
	if err != nil || empty.Seq != 0 {
		t.Errorf("an empty log: %d, %v", empty.Seq, err)
	}
	const n = 5000 // more than a page
	tx, err := r.As("spp").Begin()
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback()
	for i := range n {
		seq, err := audit.Append(t.Context(), tx, sampleEvent(i+1))
		if err != nil || seq != int64(i+1) {
			t.Fatalf("entry %d got number %d, %v", i+1, seq, err)
		}
	}
	if err := tx.Commit(); err != nil {
		t.Fatal(err)
	}
	fill(t, l, 1)
	reader := audit.New(r.As("auditor"), identity.Development)
	i := 0
	var middle audit.Head
	end, err := reader.Verify(t.Context(), audit.Head{}, nil, func(e audit.Entry) error {
		i++
		if want := sampleEvent((i-1)%n + 1); e.Seq != int64(i) || !cmp.Equal(e.Event, want) {
			t.Errorf("entry %d: %+v, want %+v", i, e, want)
		}
		if i == n/2 {
			middle = audit.Head{Seq: e.Seq, Hash: e.Hash, At: e.At}
		}
		return nil
	})
	if err != nil || end.Seq != n+1 || i != n+1 || time.Since(end.At) > time.Hour {
		t.Errorf("Verify came to %d at %s after %d, %v", end.Seq, end.At, i, err)
	}
	if head, err := l.Head(t.Context()); err != nil || head.Seq != end.Seq || head.Hash != end.Hash || !head.At.Equal(end.At) {
		t.Errorf("Head = %+v, %v, want %+v", head, err, end)
	}
	i = 0
	if _, err := reader.Verify(t.Context(), middle, nil, func(e audit.Entry) error { i++; return nil }); err != nil || i != n/2+1 {
		t.Errorf("from the middle: %d entries, %v", i, err)
	}
	stop := errors.New("enough")
	if _, err := reader.Verify(t.Context(), audit.Head{}, nil, func(audit.Entry) error { return stop }); !errors.Is(err, stop) || errors.Is(err, audit.ErrBroken) {
		t.Errorf("each's own error: %v", err)
	}
}

// TestConcurrentAppend: appenders stand in one line; a transaction that is
// rolled back leaves no entry and no gap.
func TestConcurrentAppend(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	db := r.As("spp")
	l := audit.New(db, identity.Development)
	var wg sync.WaitGroup
	for worker := range 6 {
		wg.Go(func() {
			for i := range 20 {
				if (worker+i)%3 > 0 {
					if err := l.Append(t.Context(), sampleEvent(i+1)); err != nil {
						t.Error(err)
					}
					continue
				}
				tx, err := db.Begin()
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := audit.Append(t.Context(), tx, sampleEvent(i+1)); err != nil {
					t.Error(err)
				}
				tx.Rollback()
			}
		})
	}
	wg.Wait()
	if end, err := audit.New(r.As("auditor"), identity.Development).Verify(t.Context(), audit.Head{}, nil, nil); err != nil || end.Seq != 80 {
		t.Errorf("Verify: %d, %v, want 80 entries", end.Seq, err)
	}
}

// TestTampering: each thing that someone with the database could do, with the
// triggers off, is found.
func TestTampering(t *testing.T) {
	t.Parallel()
	const rewrite = `
do $$ declare p bytea := decode(repeat('00', 32), 'hex'); e record; begin
	for e in select * from audit_entry order by seq loop
		update audit_entry set previous = p, hash = sha256(p || int8send(e.seq) || int8send((extract(epoch from e.at) * 1000000)::bigint) || e.body)
		where seq = e.seq returning hash into p;
	end loop;
	update audit_head_row set hash = p, seq = (select max(seq) from audit_entry);
end $$`
	const swap = `
update audit_entry set seq = -seq where seq in (4, 5);
update audit_entry set seq = 9 + seq where seq < 0`
	for name, c := range map[string]struct {
		plant  string
		signed bool // found only with the signed heads
		want   string
	}{
		"body changed":                  {`update audit_entry set body = overlay(body placing 'X' from octet_length(body)) where seq = 4`, false, "entry 4 was changed"},
		"time changed":                  {`update audit_entry set at = at + interval '1 us' where seq = 4`, false, "entry 4 was changed"},
		"entry removed":                 {`delete from audit_entry where seq = 4`, false, "entry 4 is missing"},
		"first entry removed":           {`delete from audit_entry where seq = 1`, false, "entry 1 is missing"},
		"two entries swapped":           {`set constraints all deferred; alter table audit_entry drop constraint audit_entry_seq_check; ` + swap, false, "entry 4 was changed"},
		"bodies swapped":                {`update audit_entry a set body = b.body from audit_entry b where (a.seq, b.seq) in ((4, 5), (5, 4))`, false, "entry 4 was changed"},
		"entry replaced by its own":     {`update audit_entry set previous = hash, hash = sha256(hash || int8send(seq) || int8send((extract(epoch from at) * 1000000)::bigint) || body) where seq = 4`, false, "entry 4 does not follow entry 3"},
		"tail cut off":                  {`delete from audit_entry where seq > 6`, false, "entry 7 is missing"},
		"tail cut off, head moved back": {`delete from audit_entry where seq > 6; ` + rewrite, true, "entry 8 was signed, but the log ends at entry 6"},
		"all written anew":              {`update audit_entry set body = (select body from audit_entry where seq = 2) where seq = 4; ` + rewrite, true, "entry 8 is not the one that was signed"},
		"head row changed":              {`update audit_head_row set hash = sha256('x')`, false, "entry 10 is not the one that the log's head names"},
		"signed head changed":           {`update audit_signed_head set statement = overlay(statement placing '\x00'::bytea from octet_length(statement))`, true, "the signed head at entry 8"},
		"signed head moved":             {`update audit_signed_head set seq = 7`, true, "the signed head at entry 7 is of entry 8"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := recordstest.New(t)
			l := audit.New(r.As("spp"), identity.Development)
			key, sign := signer(t, "audit")
			fill(t, l, 8)
			if _, err := l.SignHead(t.Context(), sign); err != nil {
				t.Fatal(err)
			}
			fill(t, l, 2)
			reader := audit.New(r.As("auditor"), identity.Development)
			verify := func(signed bool) error {
				var heads []audit.Head
				if signed {
					var err error
					if heads, err = reader.Heads(t.Context(), key); err != nil {
						return err
					}
				}
				_, err := reader.Verify(t.Context(), audit.Head{}, heads, nil)
				return err
			}
			if err := verify(true); err != nil {
				t.Fatalf("before: %v", err)
			}
			if _, err := r.AsSuperuser().Exec(`set session_replication_role = replica; ` + c.plant); err != nil {
				t.Fatal(err)
			}
			err := verify(c.signed)
			if !errors.Is(err, audit.ErrBroken) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("found %v, want %q", err, c.want)
			}
			if err := verify(false); c.signed && err != nil {
				t.Errorf("without signed heads: %v: the case shows less than it says", err)
			}
		})
	}
}

// TestKeptHead: an auditor who kept a head elsewhere finds what was done before
// it, without reading the log from its beginning.
func TestKeptHead(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	l := audit.New(r.As("spp"), identity.Development)
	key, sign := signer(t, "audit")
	fill(t, l, 5)
	kept, err := l.SignHead(t.Context(), sign)
	if err != nil {
		t.Fatal(err)
	}
	again, err := audit.ParseHead(kept.Statement, key)
	if err != nil || !cmp.Equal(again, kept, cmp.AllowUnexported(audit.Head{})) {
		t.Errorf("ParseHead: %v %s", err, cmp.Diff(kept, again, cmp.AllowUnexported(audit.Head{})))
	}
	reader := audit.New(r.As("auditor"), identity.Development)
	if _, err := reader.Verify(t.Context(), kept, nil, nil); err != nil {
		t.Errorf("at the head: %v", err)
	}
	fill(t, l, 3)
	n := 0
	if end, err := reader.Verify(t.Context(), kept, nil, func(audit.Entry) error { n++; return nil }); err != nil || end.Seq != 8 || n != 3 {
		t.Errorf("from the head: came to %d in %d, %v", end.Seq, n, err)
	}
	forged := kept
	forged.Hash[0] ^= 1
	if _, err := reader.Verify(t.Context(), forged, nil, nil); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("from another history: %v", err)
	}
	ahead := kept
	ahead.Seq = 100
	if _, err := reader.Verify(t.Context(), ahead, nil, nil); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("from a head beyond the end: %v", err)
	}

	other, _ := signer(t, "another")
	if _, err := audit.ParseHead(kept.Statement, other); !errors.Is(err, statement.ErrForm) {
		t.Errorf("with another key: %v", err)
	}
	if _, err := reader.Heads(t.Context(), other); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("heads with another key: %v", err)
	}
	if _, err := audit.New(r.As("auditor"), identity.Production).Heads(t.Context(), key); !errors.Is(err, audit.ErrBroken) {
		t.Errorf("heads of another realm: %v", err)
	}
	if heads, err := reader.Heads(t.Context(), key); err != nil || len(heads) != 1 || heads[0].Seq != 5 {
		t.Errorf("heads %+v, %v", heads, err)
	}
	// The database keeps no head of an entry that isn't there.
	if _, err := r.As("spp").Exec(`select audit_keep_head($1, $2, $3)`, 99, kept.Hash[:], kept.Statement); err == nil {
		t.Error("a head of no entry was kept")
	}
}

func TestSignHeadOfEmptyLog(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	h, err := audit.New(r.As("spp"), identity.Development).SignHead(t.Context(), func(context.Context, []byte) ([]byte, error) {
		t.Error("an empty log was signed")
		return nil, nil
	})
	if err != nil || h.Seq != 0 {
		t.Errorf("SignHead = %+v, %v", h, err)
	}
}

// TestAppendOnly: what the triggers refuse to the owner of the tables himself.
func TestAppendOnly(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	l := audit.New(r.As("spp"), identity.Development)
	_, sign := signer(t, "audit")
	fill(t, l, 3)
	if _, err := l.SignHead(t.Context(), sign); err != nil {
		t.Fatal(err)
	}
	for _, q := range []string{
		`update audit_entry set body = '\x00'`, `delete from audit_entry`, `truncate audit_entry cascade`,
		`update audit_signed_head set statement = '\x00'`, `delete from audit_signed_head`, `truncate audit_signed_head`,
		`delete from audit_head_row`, `truncate audit_head_row`, `insert into audit_head_row select * from audit_head_row`,
		`update audit_head_row set seq = 2`, `update audit_head_row set seq = seq + 1`, `update audit_head_row set hash = sha256('x')`,
	} {
		if _, err := r.AsOwner().Exec(q); err == nil || !strings.Contains(err.Error(), "append-only") {
			t.Errorf("%s: %v", q, err)
		}
	}
	// Longer or emptier than an entry may be, whoever calls.
	for _, body := range [][]byte{nil, {}, make([]byte, 4097)} {
		if _, err := r.As("spp").Exec(`select audit_append($1)`, body); err == nil {
			t.Errorf("a body of %d bytes was appended", len(body))
		}
	}
}

func TestEvent(t *testing.T) {
	t.Parallel()
	good := audit.Event{Kind: audit.Assemble, Key: "dev-purpose-channel-1", Record: sha256.Sum256(nil), Generation: 1, Actor: "line-1", Note: "é"}
	b, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := audit.ParseEvent(b); err != nil || back != good {
		t.Errorf("ParseEvent = %+v, %v", back, err)
	}
	for name, spoil := range map[string]func(*audit.Event){
		"kind":              func(e *audit.Event) { e.Kind = "nonsense" },
		"no key":            func(e *audit.Event) { e.Key = "" },
		"long key":          func(e *audit.Event) { e.Key = strings.Repeat("x", 65) },
		"no actor":          func(e *audit.Event) { e.Actor = "" },
		"no generation":     func(e *audit.Event) { e.Generation = 0 },
		"no record":         func(e *audit.Event) { e.Record = identity.RecordID{} },
		"no device":         func(e *audit.Event) { e.Record, e.Generation = identity.RecordID{}, 0 },
		"control character": func(e *audit.Event) { e.Note = "a\x1b[2J" },
		"not UTF-8":         func(e *audit.Event) { e.Note = "\xff" },
		"long note":         func(e *audit.Event) { e.Note = strings.Repeat("x", 1409) },
		"order with a key":  func(e *audit.Event) { e.Kind = audit.Order },
	} {
		e := good
		spoil(&e)
		if _, err := e.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

// TestOrder: an operator's act uses no key, and may be about a device, a chip
// without one, or neither.
func TestOrder(t *testing.T) {
	t.Parallel()
	order := audit.Event{
		Kind: audit.Order, Record: sha256.Sum256(nil), Generation: 2,
		Actor: "operator " + strings.Repeat("n", 128), Note: "put-back " + strings.Repeat("s", 256) + ": " + strings.Repeat("r", 1024),
	}
	chip, neither, wrong := order, order, order
	chip.Generation = 0
	neither.Record, neither.Generation = identity.RecordID{}, 0
	wrong.Record = identity.RecordID{}
	for name, c := range map[string]struct {
		e  audit.Event
		ok bool
	}{"device": {order, true}, "chip": {chip, true}, "neither": {neither, true}, "generation of nothing": {wrong, false}} {
		b, err := c.e.Encode()
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		if back, err := audit.ParseEvent(b); err != nil || back != c.e {
			t.Errorf("%s: ParseEvent = %+v, %v", name, back, err)
		}
	}
	check := audit.Event{Kind: audit.Check, Record: order.Record, Key: "dev-master-1", Actor: "ann"}
	if _, err := check.Encode(); err == nil {
		t.Error("another kind may name a record without its generation")
	}
}

func FuzzParseEvent(f *testing.F) {
	for n := range 4 {
		b, err := sampleEvent(n).Encode()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)-1])
	}
	order, err := audit.Event{Kind: audit.Order, Actor: "operator ann", Note: "revoke line-1: stolen"}.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(order)
	f.Add([]byte{0x87, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		e, err := audit.ParseEvent(b)
		if err != nil {
			return
		}
		again, err := e.Encode()
		if err != nil || string(again) != string(b) {
			t.Fatalf("%x was read as %+v, which encodes to %x, %v", b, e, again, err)
		}
	})
}

// FuzzParseHead reads heads, unsigned and signed by the audit key.
func FuzzParseHead(f *testing.F) {
	key, sign := signer(f, "audit")
	payload, err := audit.Head{Realm: identity.Development, Seq: 1, At: time.Unix(1_700_000_000, 0)}.Payload()
	if err != nil {
		f.Fatal(err)
	}
	raw, err := sign(f.Context(), payload)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Add(raw[:len(raw)-1])
	f.Add(payload)
	f.Add(payload[:len(payload)-1])
	f.Add(binary.BigEndian.AppendUint64(nil, 1))
	f.Fuzz(func(t *testing.T, b []byte) {
		switch h, err := audit.ParseHead(b, key); {
		case err == nil && (h.Seq != 1 || string(b) != string(raw)):
			t.Fatalf("accepted a head of entry %d, which was never signed: %x", h.Seq, b)
		case err != nil && !errors.Is(err, statement.ErrForm) && !errors.Is(err, statement.ErrSignature):
			t.Fatalf("unsigned, and refused for something else: %v", err)
		}
		signed, err := sign(t.Context(), b)
		if err != nil {
			return
		}
		h, err := audit.ParseHead(signed, key)
		if err != nil {
			return
		}
		if again, err := h.Payload(); err != nil || string(again) != string(b) {
			t.Fatalf("%x was read as %+v, which encodes to %x, %v", b, h, again, err)
		}
	})
}
