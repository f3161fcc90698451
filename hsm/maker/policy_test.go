package maker_test

import (
	"crypto/sha256"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// TestPolicy asks every lasting key of the SPP's token for everything, past this package: the token itself allows
// what the table says and refuses the rest.
func TestPolicy(t *testing.T) {
	t.Parallel()
	_, tok, _ := opened(t)
	ctx := t.Context()
	session := func(kind hsm.Kind) *hsm.Key {
		k, err := tok.Generate(ctx, hsm.Spec{Kind: kind})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	find := func(kind hsm.Kind, name string) *hsm.Key {
		k, err := tok.Find(ctx, hsm.Spec{Kind: kind, Label: "dev-" + name})
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	pair := session(hsm.DeviceSigningKey)
	purpose := find(hsm.PurposeKey, "purpose-channel-1")
	device, err := tok.Derive(ctx, purpose, hsm.KDF1, []byte("policy"), hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		t.Fatal(err)
	}
	symmetricWrap, pairWrap := find(hsm.PoolWrapKey, "pool-wrap-symmetric"), find(hsm.PoolPairWrapKey, "pool-wrap-pair")
	digest := sha256.Sum256(nil)
	symmetricBlob, err := tok.Wrap(ctx, symmetricWrap, device)
	if err != nil {
		t.Fatal(err)
	}
	pairBlob, err := tok.Wrap(ctx, pairWrap, pair)
	if err != nil {
		t.Fatal(err)
	}
	acts := map[string]func(*hsm.Key) error{
		"mac":  func(k *hsm.Key) error { _, err := k.MAC(ctx, digest[:]); return err },
		"cmac": func(k *hsm.Key) error { _, err := k.CMAC(ctx, digest[:]); return err },
		"sign": func(k *hsm.Key) error { _, err := k.Sign(ctx, digest[:]); return err },
		"seal": func(k *hsm.Key) error { _, _, err := k.Seal(ctx, []byte("aad"), digest[:]); return err },
		"derive": func(k *hsm.Key) error {
			_, err := tok.Derive(ctx, k, hsm.KDF1, []byte("policy"), hsm.Spec{Kind: hsm.DeviceKey})
			return err
		},
		"agree": func(k *hsm.Key) error {
			_, err := tok.Agree(ctx, k, pair.Public(), hsm.Spec{Kind: hsm.AgreedKey})
			return err
		},
		"wrap symmetric": func(k *hsm.Key) error { _, err := tok.Wrap(ctx, k, device); return err },
		"wrap pair":      func(k *hsm.Key) error { _, err := tok.Wrap(ctx, k, pair); return err },
		"unwrap": func(k *hsm.Key) error {
			_, err := tok.Unwrap(ctx, k, symmetricBlob, hsm.Spec{Kind: hsm.DeviceKey})
			return err
		},
		"unwrap pair": func(k *hsm.Key) error {
			_, err := tok.Unwrap(ctx, k, pairBlob, hsm.Spec{Kind: hsm.DeviceSigningKey})
			return err
		},
		"leave": func(k *hsm.Key) error {
			if _, err := tok.Wrap(ctx, symmetricWrap, k); err == nil {
				return nil
			}
			_, err := tok.Wrap(ctx, pairWrap, k)
			return err
		},
		"copy": func(k *hsm.Key) error { _, err := tok.Hot(ctx, k); return err },
	}
	listed := map[string]bool{}
	for _, c := range []struct {
		kind  hsm.Kind
		name  string
		allow string
	}{
		{hsm.MasterKey, "master-1", "derive"},
		{hsm.PurposeKey, "purpose-channel-1", "derive"},
		{hsm.IdentitySigningKey, "identity-signing", "sign"},
		{hsm.CAKey, "device-ca", "sign"},
		{hsm.CAKey, "station-ca", "sign"},
		{hsm.SubmissionKey, "submission", "sign"},
		{hsm.AuditKey, "audit", "sign"},
		// Not fixed, since their unwrapping halves are copies; a copy keeps its mechanisms.
		{hsm.PoolWrapKey, "pool-wrap-symmetric", "copy, wrap symmetric"},
		{hsm.PoolPairWrapKey, "pool-wrap-pair", "copy, wrap pair"},
		{hsm.PoolSealKey, "pool-seal", "copy, seal"},
		{hsm.PoolUnwrapKey, "pool-unwrap-symmetric", "copy, unwrap"},
		{hsm.PoolPairUnwrapKey, "pool-unwrap-pair", "copy, unwrap pair"},
		{hsm.TransportKey, "transport", "agree"},
	} {
		listed["dev-"+c.name] = true
		key := find(c.kind, c.name)
		var allowed []string
		for _, act := range slices.Sorted(maps.Keys(acts)) {
			if acts[act](key) == nil {
				allowed = append(allowed, act)
			}
		}
		if got := strings.Join(allowed, ", "); got != c.allow {
			t.Errorf("%s allows %q, want %q", c.name, got, c.allow)
		}
	}
	for _, s := range append(plan().Born(), hsm.Spec{Label: "dev-purpose-channel-1"}) {
		if !listed[s.Label] {
			t.Errorf("%s lasts, and nothing is said here of what it allows", s.Label)
		}
	}
	// The control: what may leave does leave, so that the refusals above are the keys' own.
	if acts["wrap symmetric"](symmetricWrap) != nil || acts["wrap pair"](pairWrap) != nil {
		t.Error("the wrap keys wrap nothing")
	}
}
