package pool_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
)

// TestKeys: a device gets an identity that has its keys, and they go with it.
func TestKeys(t *testing.T) {
	t.Parallel()
	s := pooltest.New(t).Store
	ids := imeis(t, 0, 4)
	mustImport(t, s, "first", "phone", ids)
	entries := []string{"message", "tls"}
	keyless := func(above string, limit int) (got []string) {
		t.Helper()
		all, err := s.Keyless(t.Context(), "phone", entries, above, limit)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range all {
			text := k.Identity.Value()
			for _, m := range k.Missing {
				text += " " + m
			}
			got = append(got, text)
		}
		return got
	}
	reserve := func(n int, keys []string) (pool.Reservation, error) {
		return s.Reserve(t.Context(), "phone", nil, keys, record(n), 1)
	}
	if _, err := reserve(1, entries); !errors.Is(err, pool.ErrNoKeys) {
		t.Fatalf("a reservation where no key waits: %v", err)
	}
	add := func(want int64, keys ...pool.Key) {
		t.Helper()
		if n, err := s.AddKeys(t.Context(), keys); n != want || err != nil {
			t.Errorf("%d keys were new, %v; %d are expected", n, err, want)
		}
	}
	add(3, pool.Key{Identity: ids[1], Entry: "tls", Sealed: []byte{1}}, pool.Key{Identity: ids[1], Entry: "message", Sealed: []byte{2}},
		pool.Key{Identity: ids[0], Entry: "tls", Sealed: []byte{3}})
	add(0, pool.Key{Identity: ids[0], Entry: "tls", Sealed: []byte{4}})                   // the first one stays
	add(0, pool.Key{Identity: imei(t, "00440200", 999), Entry: "tls", Sealed: []byte{5}}) // nobody's
	want := []string{ids[0].Value() + " message", ids[2].Value() + " message tls", ids[3].Value() + " message tls"}
	if d := cmp.Diff(want, keyless("", 10)); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(want[1:2], keyless(ids[0].Value(), 1)); d != "" {
		t.Error(d)
	}
	stock, err := s.KeyStock(t.Context())
	if d := cmp.Diff([]pool.KeyStock{{"phone", "message", 1}, {"phone", "tls", 2}}, stock); d != "" || err != nil {
		t.Error(err, d)
	}

	// The first identity lacks a key: the second is taken.
	r, err := reserve(1, entries)
	if err != nil || r.Identity != ids[1] {
		t.Fatalf("reserved %v, %v", r.Identity, err)
	}
	waiting, err := s.WaitingKeys(t.Context(), r.Identity)
	if d := cmp.Diff(map[string][]byte{"tls": {1}, "message": {2}}, waiting); d != "" || err != nil {
		t.Error(err, d)
	}
	if again, err := reserve(1, entries); err != nil || again.Identity != ids[1] || again.New {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	if _, err := reserve(2, entries); !errors.Is(err, pool.ErrNoKeys) {
		t.Errorf("a second one: %v", err)
	}
	// A line that asks for no keys, or fewer, takes what there is.
	if r, err := reserve(3, []string{"tls"}); err != nil || r.Identity != ids[0] {
		t.Errorf("with one key: %v, %v", r.Identity, err)
	}
	if r, err := reserve(4, nil); err != nil || r.Identity != ids[2] {
		t.Errorf("without keys: %v, %v", r.Identity, err)
	}
	if err := s.Use(t.Context(), ids[1]); err != nil {
		t.Fatal(err)
	}
	if err := s.Burn(t.Context(), ids[0], "test"); err != nil {
		t.Fatal(err)
	}
	if stock, err := s.KeyStock(t.Context()); len(stock) != 0 || err != nil {
		t.Errorf("keys of identities that left: %+v, %v", stock, err)
	}
	add(0, pool.Key{Identity: ids[1], Entry: "tls", Sealed: []byte{6}}) // it left
	checkPool(t, s)
}

// TestPointTaken: one public key waits once, whoever it is for; what is refused keeps none of its page.
func TestPointTaken(t *testing.T) {
	t.Parallel()
	s := pooltest.New(t).Store
	ids := imeis(t, 0, 3)
	mustImport(t, s, "first", "phone", ids)
	a, b := bytes.Repeat([]byte{1}, 32), bytes.Repeat([]byte{2}, 32)
	key := func(n int, entry string, point []byte) pool.Key {
		return pool.Key{Identity: ids[n], Entry: entry, Sealed: []byte{1}, Point: point}
	}
	for _, c := range []struct {
		what string
		keys []pool.Key
		want int64
		err  error
	}{
		{"the first", []pool.Key{key(0, "tls", a)}, 1, nil},
		{"the same again", []pool.Key{key(0, "tls", a)}, 0, nil},
		{"with another identity", []pool.Key{key(1, "message", b), key(1, "tls", a)}, 0, pool.ErrPointTaken},
		{"for another entry", []pool.Key{key(0, "message", a)}, 0, pool.ErrPointTaken},
		{"twice at once", []pool.Key{key(1, "tls", b), key(2, "tls", b)}, 0, pool.ErrPointTaken},
		{"another one", []pool.Key{key(1, "tls", b)}, 1, nil},
		{"symmetric keys", []pool.Key{key(1, "drm", nil), key(2, "drm", nil)}, 2, nil},
	} {
		if n, err := s.AddKeys(t.Context(), c.keys); n != c.want || !errors.Is(err, c.err) {
			t.Errorf("%s: %d, %v", c.what, n, err)
		}
	}
	if err := s.Burn(t.Context(), ids[0], "test"); err != nil {
		t.Fatal(err)
	}
	if n, err := s.AddKeys(t.Context(), []pool.Key{key(2, "tls", a)}); n != 1 || err != nil {
		t.Errorf("after the first one left: %d, %v", n, err) // the records remember it, where a device was begun with it
	}
}
