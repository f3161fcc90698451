package outage_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/softhsm"
)

// What package hsm says it has called is what the module sees, crypto11's signatures
// included.
func TestCountsAgree(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{})
	signed := open(t, signToken, hsm.Options{})
	generate(t, signed, hsm.TLSKey, "dev-counted")
	signer, err := signed.Signer("dev-counted") // crypto11's search isn't counted
	if err != nil {
		t.Fatal(err)
	}
	sign := func() {
		if _, err := signer.Sign(nil, make([]byte, 32), nil); err != nil {
			t.Fatal(err)
		}
	}
	for range 9 { // crypto11 opens its sessions one after the other, and keeps them
		sign()
	}

	ours, seen := module.Calls(), shim.Counts()
	ctx := t.Context()
	master := generate(t, tok, hsm.MasterKey, "master")
	generate(t, tok, hsm.AuditKey, "audit")
	for range 3 {
		k, err := tok.Derive(ctx, master, hsm.KDF1, []byte("x"), hsm.Spec{Kind: hsm.DeviceKey})
		if err != nil {
			t.Fatal(err)
		}
		m, err := k.MAC(ctx, []byte("m"))
		if err != nil {
			t.Fatal(err)
		}
		if err := k.Verify(ctx, []byte("m"), m); err != nil {
			t.Fatal(err)
		}
		if err := k.Destroy(ctx); err != nil {
			t.Fatal(err)
		}
		sign()
	}
	if err := tok.PutData(ctx, hsm.Data{Application: "a", Label: "l", Value: []byte("v")}); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Data(ctx, "nobody", ""); err != nil {
		t.Fatal(err)
	}
	if err := tok.Check(ctx); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(delta(ours, module.Calls()), delta(seen, shim.Counts())); diff != "" {
		t.Errorf("what hsm counted (-) and what the module saw (+):\n%s", diff)
	}
}

func TestRule(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{Sessions: 1})
	draw := func() hsm.Code { // a one-call operation
		_, err := tok.Random(context.Background(), 16)
		return codeOf(err)
	}
	draw() // the session is open
	const code = hsm.Code(pkcs11.CKR_DEVICE_MEMORY)
	for _, c := range []struct {
		name string
		rule softhsm.Rule
		want []hsm.Code
	}{
		{"next call", softhsm.Rule{Function: "C_GenerateRandom", Code: code}, []hsm.Code{code, 0, 0}},
		{"second call", softhsm.Rule{Function: "C_GenerateRandom", Code: code, From: 2}, []hsm.Code{0, code, 0}},
		{"second and third", softhsm.Rule{Function: "C_GenerateRandom", Code: code, From: 2, To: 3}, []hsm.Code{0, code, code, 0}},
		{"effect kept", softhsm.Rule{Function: "C_GenerateRandom", Code: code, After: true}, []hsm.Code{code, 0}},
		{"any function", softhsm.Rule{Code: code}, []hsm.Code{code, 0}},
		{"another function", softhsm.Rule{Function: "C_SeedRandom", Code: code, To: softhsm.Forever}, []hsm.Code{0, 0}},
		{"for ever", softhsm.Rule{Function: "C_GenerateRandom", Code: code, To: softhsm.Forever}, []hsm.Code{code, code, code, code}},
	} {
		t.Run(c.name, func(t *testing.T) {
			defer shim.Clear()
			failed := shim.Failed()["C_GenerateRandom"]
			fails(t, c.rule)
			var got []hsm.Code
			for range c.want {
				got = append(got, draw())
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("answers (-want +got):\n%s", diff)
			}
			for _, code := range c.want {
				if code != 0 {
					failed++
				}
			}
			if n := shim.Failed()["C_GenerateRandom"]; n != failed {
				t.Errorf("the shim says that it failed %d calls, and %d were", n, failed)
			}
			shim.Clear()
			if code := draw(); code != 0 {
				t.Errorf("cleared, and still %v", code)
			}
		})
	}
}

// A call that fails after the real one has its effect.
func TestEffectKept(t *testing.T) {
	c := fresh(t)
	tok := open(t, c, hsm.Options{})
	for _, after := range []bool{false, true} {
		label := map[bool]string{false: "lost", true: "kept"}[after]
		fails(t, softhsm.Rule{Function: "C_CreateObject", Code: pkcs11.CKR_FUNCTION_FAILED, After: after})
		if err := tok.PutData(t.Context(), hsm.Data{Application: "a", Label: label, Value: []byte("v")}); hsm.Classify(err) != hsm.Retry {
			t.Errorf("store %s: %v", label, err)
		}
		found, err := tok.Data(t.Context(), "a", label)
		if err != nil || (len(found) == 1) != after {
			t.Errorf("%s: %d objects, %v", label, len(found), err)
		}
	}
}

func TestRefusedRules(t *testing.T) {
	t.Cleanup(shim.Clear)
	for _, r := range []softhsm.Rule{
		{Function: "C_Nothing", Code: 5},
		{Function: "c_sign", Code: 5},
		{Function: "C_Sign"},
		{Function: "C_Sign", Code: 5, From: 3, To: 2},
	} {
		if err := shim.Fail(r); err == nil {
			t.Errorf("rule %+v was taken", r)
		}
	}
	if err := shim.Delay("C_Nothing", time.Second); err == nil {
		t.Error("a delay of no function was taken")
	}
	if err := shim.Delay("C_Sign", -time.Second); err == nil {
		t.Error("a negative delay was taken")
	}
	for range 64 {
		fails(t, softhsm.Rule{Function: "C_SeedRandom", Code: 5, From: 10})
	}
	if err := shim.Fail(softhsm.Rule{Function: "C_SeedRandom", Code: 5}); err == nil {
		t.Error("a 65th rule was taken")
	}
}

func TestDelay(t *testing.T) {
	tok := open(t, fresh(t), hsm.Options{})
	const d = 30 * time.Millisecond
	took := func() time.Duration {
		start := time.Now()
		if _, err := tok.Random(t.Context(), 16); err != nil {
			t.Fatal(err)
		}
		return time.Since(start)
	}
	took() // the session is open
	if err := shim.Delay("C_GenerateRandom", d); err != nil {
		t.Fatal(err)
	}
	if got := took(); got < d {
		t.Errorf("delayed by %v, a call took %v", d, got)
	}
	if err := shim.Delay("", 2*d); err != nil {
		t.Fatal(err)
	}
	if got := took(); got < d || tok.Check(t.Context()) != nil {
		t.Errorf("with a delay of its own of %v, a call took %v", d, got)
	}
	if err := shim.Delay("C_GenerateRandom", 0); err != nil {
		t.Fatal(err)
	}
	if got := took(); got < 2*d {
		t.Errorf("delayed by %v as all are, a call took %v", 2*d, got)
	}
}
