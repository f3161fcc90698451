package outage_test

import (
	"testing"

	"github.com/miekg/pkcs11"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

// TestTransportLeavesNoKey: when an intermediate key can't be destroyed, what was unwrapped with it doesn't stay behind
// either, and what was wrapped or opened isn't given out. What the failing call should have destroyed ends with its session.
func TestTransportLeavesNoKey(t *testing.T) {
	ctx, realm, label := t.Context(), identity.Development, "a device's key"
	tok := open(t, fresh(t), hsm.Options{})
	own, err := tok.Generate(ctx, transport.Spec(realm))
	if err != nil {
		t.Fatal(err)
	}
	to, err := statement.ParsePoint(own.Public())
	if err != nil {
		t.Fatal(err)
	}
	key, err := tok.Generate(ctx, hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		t.Fatal(err)
	}
	blob, err := transport.Wrap(ctx, tok, realm, to, label, key)
	if err != nil {
		t.Fatal(err)
	}
	secret, err := transport.SealSoftware(realm, to, label, []byte("73318500"))
	if err != nil {
		t.Fatal(err)
	}
	for name, act := range map[string]struct {
		run       func() (gave bool, err error)
		destroyed uint64 // calls, at least, once the first of them fails
	}{
		"wrap": {func() (bool, error) {
			b, err := transport.Wrap(ctx, tok, realm, to, label, key)
			return b != nil, err
		}, 1},
		"unwrap": {func() (bool, error) {
			k, err := transport.Unwrap(ctx, tok, own, realm, label, blob, hsm.Spec{Kind: hsm.DeviceKey})
			return k != nil, err
		}, 3}, // two that were derived, and the key
		"open": {func() (bool, error) {
			b, err := transport.Open(ctx, tok, own, realm, label, secret)
			return b != nil, err
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			if gave, err := act.run(); err != nil || !gave {
				t.Fatalf("gave a result: %t; %v", gave, err)
			}
			before := shim.Counts()["C_DestroyObject"]
			fails(t, softhsm.Rule{Function: "C_DestroyObject", Code: hsm.Code(pkcs11.CKR_FUNCTION_FAILED)})
			if gave, err := act.run(); err == nil || gave {
				t.Errorf("gave a result: %t; %v", gave, err)
			}
			if got := shim.Counts()["C_DestroyObject"] - before; got < act.destroyed {
				t.Errorf("%d calls to destroy something, want %d", got, act.destroyed)
			}
		})
	}
}
