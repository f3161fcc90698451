package maker_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
)

func labels(t testing.TB, k *maker.Keys) map[string]string {
	t.Helper()
	all, err := k.Inventory(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]string{}
	for _, i := range all {
		m[i.Label] = i.Kind
	}
	return m
}

func TestCreate(t *testing.T) {
	t.Parallel()
	_, tok := token(t)
	ctx := t.Context()
	if _, err := maker.Open(ctx, tok, dev); !errors.Is(err, hsm.ErrNoKey) || !strings.Contains(err.Error(), "custodian setup") {
		t.Errorf("opening an empty token gives %v, want ErrNoKey with the next step", err)
	}
	var acts []maker.Act
	p := plan()
	p.Before = func(_ context.Context, a maker.Act) error { acts = append(acts, a); return nil }
	if err := maker.Create(ctx, tok, p); err != nil {
		t.Fatal(err)
	}
	k, err := maker.Open(ctx, tok, dev)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"dev-master-1": "master key", "dev-purpose-channel-1": "purpose key", "dev-purpose-drm-1": "purpose key",
		"dev-identity-signing": "identity-signing key", "dev-device-ca": "CA key", "dev-station-ca": "CA key",
		"dev-submission": "submission key", "dev-audit": "audit key",
		"dev-pool-wrap-symmetric": "pool wrap key", "dev-pool-wrap-pair": "pool pair wrap key", "dev-pool-seal": "pool seal key",
		"dev-pool-unwrap-symmetric": "pool unwrap key", "dev-pool-unwrap-pair": "pool pair unwrap key", "dev-transport": "transport key",
	}
	if d := cmp.Diff(want, labels(t, k)); d != "" {
		t.Errorf("other keys than planned (-want +got):\n%s", d)
	}
	born := map[string]bool{}
	for _, a := range acts {
		born[a.Key+": "+a.What] = true
	}
	for _, w := range []string{"dev-master-1: generate", "dev-identity-signing: generate", "dev-master-1: derive purpose key dev-purpose-channel-1"} {
		if !born[w] {
			t.Errorf("no word before %q; there was %v", w, acts)
		}
	}
	// Twice is once.
	acts = nil
	if err := maker.Create(ctx, tok, p); err != nil {
		t.Fatal(err)
	}
	again, err := maker.Open(ctx, tok, dev)
	if err != nil {
		t.Fatal(err)
	}
	if len(acts) != 0 || again.ROMKey() != k.ROMKey() {
		t.Errorf("a second Create did %v; the ROM key is the same: %v", acts, again.ROMKey() == k.ROMKey())
	}
	// More of it: a new version and a new purpose for both.
	p.Masters = append(p.Masters, maker.Master{Version: 2, KDF: hsm.KDF1})
	p.Purposes = append(p.Purposes, "simlock")
	if err := maker.Create(ctx, tok, p); err != nil {
		t.Fatal(err)
	}
	if k, err = maker.Open(ctx, tok, dev); err != nil {
		t.Fatal(err)
	}
	if got := labels(t, k); len(got) != 11+2+2*3 || got["dev-purpose-simlock-2"] == "" {
		t.Errorf("after a larger plan the token has %v", got)
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	_, tok := token(t)
	ctx := t.Context()
	for _, c := range []struct {
		name, reason string
		change       func(*maker.Plan)
	}{
		{"production", "ceremony", func(p *maker.Plan) { p.Realm = identity.Production }},
		{"no realm", "realm", func(p *maker.Plan) { p.Realm = 0 }},
		{"no master", "at least one", func(p *maker.Plan) { p.Masters = nil }},
		{"no purpose", "at least one", func(p *maker.Plan) { p.Purposes = nil }},
		{"version 0", "count from 1", func(p *maker.Plan) { p.Masters[0].Version = 0 }},
		{"version twice", "stand once", func(p *maker.Plan) { p.Masters = append(p.Masters, p.Masters[0]) }},
		{"unknown KDF", "KDF 3", func(p *maker.Plan) { p.Masters[0].KDF = 3 }},
		{"purpose twice", "twice", func(p *maker.Plan) { p.Purposes = []string{"drm", "drm"} }},
		{"purpose with capitals", "lower-case", func(p *maker.Plan) { p.Purposes = []string{"DRM"} }},
		{"long purpose", "characters", func(p *maker.Plan) { p.Purposes = []string{strings.Repeat("a", 33)} }},
		{"KDF 2 in a token without it", "KDF", func(p *maker.Plan) { p.Masters[0].KDF = hsm.KDF2 }},
	} {
		p := plan()
		c.change(&p)
		if err := maker.Create(ctx, tok, p); err == nil || !strings.Contains(err.Error(), c.reason) {
			t.Errorf("%s: Create gives %v, want a reason with %q", c.name, err, c.reason)
		}
	}
}

// TestCreateStopped stops before each act in turn: what stands is kept, and the next run completes it.
func TestCreateStopped(t *testing.T) {
	t.Parallel()
	stop := errors.New("the audit log is unreachable")
	_, tok := token(t)
	for n := 1; ; n++ {
		if n > 50 {
			t.Fatal("Create never got through")
		}
		// Each run does one act more than it finds done, so that every prefix of the work stands once.
		p, done := plan(), 0
		p.Before = func(context.Context, maker.Act) error {
			if done++; done > 1 {
				return stop
			}
			return nil
		}
		err := maker.Create(t.Context(), tok, p)
		if err == nil {
			if n < 11 {
				t.Errorf("Create got through in run %d: it does more than it tells", n)
			}
			break
		}
		if !errors.Is(err, stop) {
			t.Fatalf("run %d: %v", n, err)
		}
		if _, err := maker.Open(t.Context(), tok, dev); err == nil && n < 10 {
			t.Errorf("run %d: half a set opens", n)
		}
	}
	k, err := maker.Open(t.Context(), tok, dev)
	if err != nil {
		t.Fatal(err)
	}
	if got := labels(t, k); len(got) != 11+1+2 {
		t.Errorf("the token has %v", got)
	}
}

// TestCreateChecksPurpose: a purpose key without record, as a crash leaves it, is compared with what its master key
// gives, and a foreign one is neither used nor overwritten.
func TestCreateChecksPurpose(t *testing.T) {
	t.Parallel()
	_, tok := token(t)
	ctx := t.Context()
	foreign, err := tok.Generate(ctx, hsm.Spec{Kind: hsm.MasterKey, Label: "other", Token: true})
	if err != nil {
		t.Fatal(err)
	}
	spec := hsm.Spec{Kind: hsm.PurposeKey, Label: "dev-purpose-channel-1", Token: true}
	key, err := tok.Derive(ctx, foreign, hsm.KDF1, []byte("anything"), spec)
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.Create(ctx, tok, plan()); err == nil || !strings.Contains(err.Error(), "not the one") {
		t.Fatalf("Create with a foreign purpose key gives %v", err)
	}
	if _, err := tok.Find(ctx, spec); err != nil {
		t.Errorf("the foreign key was touched: %v", err)
	}
	if err := key.Destroy(ctx); err != nil {
		t.Fatal(err)
	}
	// And the right one, without its record, is taken as it is.
	master, err := tok.Find(ctx, hsm.Spec{Kind: hsm.MasterKey, Label: "dev-master-1"})
	if err != nil {
		t.Fatal(err)
	}
	context := detcbor.Array("dk-purpose", 1, dev, 1, 1, "channel", 256)
	if _, err := tok.Derive(ctx, master, hsm.KDF1, context, spec); err != nil {
		t.Fatal(err)
	}
	if err := maker.Create(ctx, tok, plan()); err != nil {
		t.Fatal(err)
	}
	if _, err := maker.Open(ctx, tok, dev); err != nil {
		t.Fatal(err)
	}
}

// TestOpenRefuses: a set that isn't exactly what Create makes does not open.
func TestOpenRefuses(t *testing.T) {
	t.Parallel()
	remove := func(kind hsm.Kind, label string) func(*testing.T, *hsm.Token) {
		return func(t *testing.T, tok *hsm.Token) {
			key, err := tok.Find(t.Context(), hsm.Spec{Kind: kind, Label: label})
			if err == nil {
				err = key.Destroy(t.Context())
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	put := func(d hsm.Data) func(*testing.T, *hsm.Token) {
		return func(t *testing.T, tok *hsm.Token) {
			if err := tok.PutData(t.Context(), d); err != nil {
				t.Fatal(err)
			}
		}
	}
	record := func(fields ...any) []byte { return detcbor.Array(fields...) }
	const app = "devicekeys-maker"
	for _, c := range []struct {
		name, reason string
		change       func(*testing.T, *hsm.Token)
	}{
		{"nothing changed", "", func(*testing.T, *hsm.Token) {}},
		{"no submission key", "custodian setup", remove(hsm.SubmissionKey, "dev-submission")},
		{"no master key", "custodian setup", remove(hsm.MasterKey, "dev-master-1")},
		{"no purpose key", "custodian setup", remove(hsm.PurposeKey, "dev-purpose-drm-1")},
		{"label of another kind", "custodian setup", func(t *testing.T, tok *hsm.Token) {
			remove(hsm.PoolSealKey, "dev-pool-seal")(t, tok)
			if _, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.TLSKey, Label: "dev-pool-seal", Token: true}); err != nil {
				t.Fatal(err)
			}
		}},
		{"another KDF", "differs", put(hsm.Data{Application: app, Label: "dev-master-1", Value: record(1, dev, 1, 2, ""), Private: true, OneWay: true})},
		{"another realm", "realm", put(hsm.Data{Application: app, Label: "prod-master-1", Value: record(1, identity.Production, 1, 1, ""), Private: true, OneWay: true})},
		{"record that can change", "could be changed", put(hsm.Data{Application: app, Label: "dev-master-2", Value: record(1, dev, 2, 1, ""), Private: true})},
		{"record under another label", "belongs under", put(hsm.Data{Application: app, Label: "dev-master-3", Value: record(1, dev, 2, 1, ""), Private: true, OneWay: true})},
		{"record without key", "custodian setup", put(hsm.Data{Application: app, Label: "dev-master-2", Value: record(1, dev, 2, 1, ""), Private: true, OneWay: true})},
		{"record that is none", "CBOR", put(hsm.Data{Application: app, Label: "dev-master-2", Value: []byte("?"), Private: true, OneWay: true})},
		{"record of a later version", "not known", put(hsm.Data{Application: app, Label: "dev-master-2", Value: record(2, dev, 2, 1, ""), Private: true, OneWay: true})},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, tok := token(t)
			if err := maker.Create(t.Context(), tok, plan()); err != nil {
				t.Fatal(err)
			}
			c.change(t, tok)
			_, err := maker.Open(t.Context(), tok, dev)
			if c.reason == "" && err != nil || c.reason != "" && (err == nil || !strings.Contains(err.Error(), c.reason)) {
				t.Errorf("Open gives %v, want a reason with %q", err, c.reason)
			}
		})
	}
	_, tok, _ := opened(t)
	if _, err := maker.Open(t.Context(), tok, identity.Production); err == nil {
		t.Error("development keys open in production")
	}
}

// TestCreateLostMaster: a master key that was recorded, and so used, is not replaced by a fresh one.
func TestCreateLostMaster(t *testing.T) {
	t.Parallel()
	_, tok, _ := opened(t)
	key, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.MasterKey, Label: "dev-master-1"})
	if err == nil {
		err = key.Destroy(t.Context())
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := maker.Create(t.Context(), tok, plan()); err == nil || !strings.Contains(err.Error(), "backup") {
		t.Errorf("Create gives %v, want a word of the backup", err)
	}
	p := plan()
	p.Masters[0].KDF = hsm.KDF2
	if err := maker.Create(t.Context(), tok, p); err == nil || !strings.Contains(err.Error(), "born with KDF 1") {
		t.Errorf("Create with another KDF gives %v", err)
	}
}

// TestMarkdown: the document has each kind once, no empty field, and is the same twice.
func TestMarkdown(t *testing.T) {
	t.Parallel()
	var one, two strings.Builder
	if err := errors.Join(maker.WriteMarkdown(&one), maker.WriteMarkdown(&two)); err != nil {
		t.Fatal(err)
	}
	if one.String() != two.String() {
		t.Error("two documents differ")
	}
	roles := maker.Roles()
	if len(roles) != len(hsm.Kinds()) {
		t.Errorf("%d roles for %d kinds", len(roles), len(hsm.Kinds()))
	}
	for i, kind := range hsm.Kinds() {
		r := roles[i]
		if r.Kind != kind || r.Where == "" || r.Users == "" || r.Thief == "" {
			t.Errorf("role %d is %+v, want all fields for %s", i, r, kind)
		}
		if n := strings.Count(one.String(), fmt.Sprintf("\n## %s\n", kind)); n != 1 {
			t.Errorf("%s has %d sections", kind, n)
		}
	}
}
