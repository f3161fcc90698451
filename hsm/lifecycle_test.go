package hsm_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/devicekeys/devicekeys/hsm"
)

// lasting are the kinds that Generate makes in a token.
var lasting = []hsm.Kind{
	hsm.MasterKey, hsm.IdentitySigningKey, hsm.CAKey, hsm.SubmissionKey, hsm.AuditKey, hsm.TLSKey,
	hsm.AttestationKey, hsm.ChipMakerKey, hsm.CheckpointKey, hsm.PoolWrapKey, hsm.PoolPairWrapKey,
	hsm.PoolSealKey, hsm.ChipKey,
}

func TestGenerateAndFind(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	tok := open(t, c, hsm.Options{})
	for _, kind := range lasting {
		s := hsm.Spec{Kind: kind, Label: strings.ReplaceAll(kind.String(), " ", "-"), Token: true}
		k := generate(t, tok, s)
		found, err := tok.Find(t.Context(), s)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if found.Label() != s.Label || found.Kind() != kind || !bytes.Equal(found.Public(), k.Public()) {
			t.Errorf("%s: found %s", kind, found)
		}
		if _, err := tok.Generate(t.Context(), s); err == nil || !strings.Contains(err.Error(), "in use") {
			t.Errorf("%s: the label was taken twice: %v", kind, err)
		}
		// A label names one thing, whatever its kind.
		if _, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.PoolSealKey, Label: s.Label, Token: true}); err == nil {
			t.Errorf("%s: another kind took its label", kind)
		}
	}
	if err := tok.Check(t.Context()); err != nil {
		t.Error(err)
	}
	if swept, err := tok.Sweep(t.Context()); err != nil || len(swept) != 0 {
		t.Errorf("sweep destroyed %q, %v", swept, err)
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	again := open(t, c, hsm.Options{})
	k, err := again.Find(t.Context(), hsm.Spec{Kind: hsm.ChipKey, Label: "chip-key"})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := again.Find(t.Context(), hsm.Spec{Kind: hsm.ChipKey, Label: "chip-key"}); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("after its end: %v", err)
	}
	// A pair goes as a whole.
	k, err = again.Find(t.Context(), hsm.Spec{Kind: hsm.AuditKey, Label: "audit-key"})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	generate(t, again, hsm.Spec{Kind: hsm.AuditKey, Label: "audit-key", Token: true})
}

// Find trusts no label: what has other attributes than its kind is refused.
func TestFindRefusesAnotherKind(t *testing.T) {
	t.Parallel()
	tok := token(t)
	generate(t, tok, hsm.Spec{Kind: hsm.PoolSealKey, Label: "key", Token: true})
	_, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.MasterKey, Label: "key"})
	if err == nil || !strings.Contains(err.Error(), "CKA_DERIVE") || !strings.Contains(err.Error(), "CKA_ALLOWED_MECHANISMS") {
		t.Errorf("found a seal key as a master key: %v", err)
	}
	if _, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.AuditKey, Label: "key"}); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("found a secret key as a pair: %v", err)
	}
}

func TestSpecsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	tok := token(t)
	for name, s := range map[string]hsm.Spec{
		"no kind": {Label: "x", Token: true}, "an unknown kind": {Kind: 99},
		"a token key without label":      {Kind: hsm.MasterKey, Token: true},
		"a long label":                   {Kind: hsm.MasterKey, Label: strings.Repeat("x", 65), Token: true},
		"a zero in the label":            {Kind: hsm.MasterKey, Label: "a\x00b", Token: true},
		"a session kind in the token":    {Kind: hsm.EphemeralKey, Label: "x", Token: true},
		"a derived kind, generated":      {Kind: hsm.PurposeKey, Label: "x", Token: true},
		"a service's key out of nowhere": {Kind: hsm.ChannelDeviceKey},
		"a KDF that doesn't exist":       {Kind: hsm.MasterKey, Label: "x", Token: true, KDF: 3},
		"a KDF for a key that has none":  {Kind: hsm.AuditKey, Label: "x", Token: true, KDF: hsm.KDF2},
		"the twin without its original":  {Kind: hsm.PoolUnwrapKey, Label: "x", Token: true},
		"an agreed key without agreeing": {Kind: hsm.AgreedKey},
	} {
		if _, err := tok.Generate(t.Context(), s); err == nil {
			t.Errorf("generated %s", name)
		}
	}
	base := imported(t, tok, hsm.Spec{Kind: hsm.ChipKey}, known(1))
	for name, err := range map[string]error{
		"a generated kind": derived(tok, t, base, hsm.KDF1, "x", hsm.Spec{Kind: hsm.MasterKey, Label: "x", Token: true}),
		"no context":       derived(tok, t, base, hsm.KDF1, "", hsm.Spec{Kind: hsm.ChipWrapKey}),
		"a long context":   derived(tok, t, base, hsm.KDF1, strings.Repeat("x", 4097), hsm.Spec{Kind: hsm.ChipWrapKey}),
		"another KDF":      derived(tok, t, base, hsm.KDF2, "x", hsm.Spec{Kind: hsm.ChipWrapKey}),
		"no KDF":           derived(tok, t, base, 0, "x", hsm.Spec{Kind: hsm.ChipWrapKey}),
		"from nothing":     derived(tok, t, nil, hsm.KDF1, "x", hsm.Spec{Kind: hsm.ChipWrapKey}),
	} {
		if err == nil {
			t.Errorf("derived with %s", name)
		}
	}
	if _, err := tok.Random(t.Context(), 0); err == nil {
		t.Error("drew nothing")
	}
	if b, err := tok.Random(t.Context(), 32); err != nil || len(b) != 32 {
		t.Errorf("drew %d bytes, %v", len(b), err)
	}
}

func derived(tok *hsm.Token, t *testing.T, base *hsm.Key, kdf hsm.KDF, context string, s hsm.Spec) error {
	_, err := tok.Derive(t.Context(), base, kdf, []byte(context), s)
	return err
}

// A derived token key is unchangeable, found again, and the same key.
func TestDerivedTokenKey(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	tok := open(t, c, hsm.Options{})
	master := generate(t, tok, hsm.Spec{Kind: hsm.MasterKey, Label: "master", Token: true})
	purpose := mustPurpose(t, tok, master)
	want := mac(t, derive(t, tok, purpose, "d", hsm.DeviceKey), "m")
	if _, err := tok.Derive(t.Context(), master, hsm.KDF1, []byte("purpose"), hsm.Spec{Kind: hsm.PurposeKey, Label: "purpose", Token: true}); err == nil {
		t.Error("its label was taken twice")
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	tok = open(t, c, hsm.Options{})
	found, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.PurposeKey, Label: "purpose"})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(mac(t, derive(t, tok, found, "d", hsm.DeviceKey), "m"), want) {
		t.Error("found another key")
	}
	const encrypt = 0x104
	if err := found.SwitchOn(t.Context(), encrypt); err == nil {
		t.Error("the purpose key can be changed")
	}
}

func TestPoolTwins(t *testing.T) {
	t.Parallel()
	tok := token(t)
	w := generate(t, tok, hsm.Spec{Kind: hsm.PoolWrapKey, Label: "pool-wrap", Token: true})
	u, err := tok.Copy(t.Context(), w, hsm.Spec{Kind: hsm.PoolUnwrapKey, Label: "pool-unwrap", Token: true})
	if err != nil {
		t.Fatal(err)
	}
	k := imported(t, tok, hsm.Spec{Kind: hsm.DeviceKey}, known(8))
	back := unwrap(t, tok, u, wrap(t, tok, w, k), hsm.InboundKey)
	if !bytes.Equal(mac(t, back, "m"), mac(t, k, "m")) {
		t.Error("another key came back")
	}
	if _, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.PoolUnwrapKey, Label: "pool-unwrap"}); err != nil {
		t.Error(err)
	}
	if _, err := tok.Wrap(t.Context(), u, k); err == nil {
		t.Error("the unwrap handle wraps")
	}
	if _, err := tok.Copy(t.Context(), u, hsm.Spec{Kind: hsm.PoolWrapKey}); err == nil {
		t.Error("copied back into a wrap key")
	}
	if _, err := tok.Copy(t.Context(), w, hsm.Spec{Kind: hsm.PoolPairUnwrapKey}); err == nil {
		t.Error("copied into another class's key")
	}
	if swept, err := tok.Sweep(t.Context()); err != nil || len(swept) != 0 {
		t.Errorf("sweep destroyed %q, %v", swept, err)
	}
}

func TestData(t *testing.T) {
	t.Parallel()
	c := fresh(t)
	tok := open(t, c, hsm.Options{})
	objects := []hsm.Data{
		{Application: "chip", Label: "id", Value: known(1), Private: true, OneWay: true},
		{Application: "chip", Label: "rom", Value: bytes.Repeat([]byte{2}, 91), Private: true},
		{Application: "chip", Label: "id", Value: known(3), Private: true, OneWay: true}, // a second one is the reader's to judge
		{Application: "other", Label: "id", Value: []byte{4}},
	}
	for _, d := range objects {
		if err := tok.PutData(t.Context(), d); err != nil {
			t.Fatal(err)
		}
	}
	if err := tok.Close(); err != nil {
		t.Fatal(err)
	}
	tok = open(t, c, hsm.Options{})
	sorted := cmpopts.SortSlices(func(a, b hsm.Data) bool { return bytes.Compare(a.Value, b.Value) < 0 })
	for _, q := range []struct {
		application, label string
		want               []hsm.Data
	}{
		{"chip", "id", []hsm.Data{objects[0], objects[2]}}, {"chip", "", objects[:3]},
		{"other", "", objects[3:]}, {"nobody", "", nil}, {"chip", "nothing", nil},
	} {
		got, err := tok.Data(t.Context(), q.application, q.label)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(q.want, got, sorted); d != "" {
			t.Errorf("%s %s: %s", q.application, q.label, d)
		}
	}
	for name, d := range map[string]hsm.Data{
		"no value": {Application: "a", Label: "l"}, "no label": {Application: "a", Value: []byte{1}},
		"no application": {Label: "l", Value: []byte{1}}, "65 KiB": {Application: "a", Label: "l", Value: make([]byte, 65<<10)},
	} {
		if err := tok.PutData(t.Context(), d); err == nil {
			t.Errorf("stored with %s", name)
		}
	}
	if swept, err := tok.Sweep(t.Context()); err != nil || len(swept) != 0 {
		t.Errorf("sweep destroyed %q, %v", swept, err)
	}
}

// A pair whose private half is gone, as a crash while making or destroying it leaves
// it, blocks its label until a sweep.
func TestSweepWidow(t *testing.T) {
	t.Parallel()
	tok := token(t)
	s := hsm.Spec{Kind: hsm.AuditKey, Label: "audit", Token: true}
	generate(t, tok, hsm.Spec{Kind: hsm.CAKey, Label: "ca", Token: true})
	if err := generate(t, tok, s).DestroyHalf(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := tok.Find(t.Context(), s); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("found half a pair: %v", err)
	}
	if _, err := tok.Generate(t.Context(), s); err == nil || !strings.Contains(err.Error(), "sweep") {
		t.Errorf("made a pair beside half a one: %v", err)
	}
	swept, err := tok.Sweep(t.Context())
	if d := cmp.Diff([]string{`public key "audit"`}, swept); err != nil || d != "" {
		t.Errorf("%v %s", err, d)
	}
	generate(t, tok, s)
	if _, err := tok.Find(t.Context(), hsm.Spec{Kind: hsm.CAKey, Label: "ca"}); err != nil {
		t.Errorf("the sweep took a healthy pair: %v", err)
	}
}

// TestHalfWritten makes objects as kill -9 leaves them: SoftHSM writes a key's template
// first, its value, CKA_LOCAL and check value after. The object's file is put back into
// that state, as the laboratory found it after kills in a loop of C_GenerateKey.
func TestHalfWritten(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		kind  hsm.Kind
		swept string
	}{
		{hsm.MasterKey, `secret key "half"`}, {hsm.PoolSealKey, `secret key "half"`},
		{hsm.AuditKey, `private key "half"`},
	} {
		t.Run(c.kind.String(), func(t *testing.T) {
			t.Parallel()
			cred := fresh(t)
			tok := open(t, cred, hsm.Options{})
			s := hsm.Spec{Kind: c.kind, Label: "half", Token: true}
			generate(t, tok, hsm.Spec{Kind: c.kind, Label: "good", Token: true})
			before := objects(t, tok)
			generate(t, tok, s)
			halve(t, tok, before)
			_, err := tok.Find(t.Context(), s)
			if err == nil || errors.Is(err, hsm.ErrNoKey) || !strings.Contains(err.Error(), "half written") || !strings.Contains(err.Error(), `"half"`) {
				t.Errorf("found: %v", err)
			}
			swept, err := tok.Sweep(t.Context())
			if err != nil || len(swept) == 0 || swept[0] != c.swept {
				t.Errorf("swept %q, %v", swept, err)
			}
			generate(t, tok, s)
			if _, err := tok.Find(t.Context(), hsm.Spec{Kind: c.kind, Label: "good"}); err != nil {
				t.Errorf("the sweep took a healthy key: %v", err)
			}
		})
	}
}

// objects lists the object files of a token. Its directory is named after a UUID that
// ends in the serial number.
func objects(t *testing.T, tok *hsm.Token) []string {
	t.Helper()
	serial := tok.Info().Serial
	files, err := filepath.Glob(filepath.Join(tokenDir, "*-"+serial[:4]+"-"+serial[4:], "*.object"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no object files of token %s: %v", serial, err)
	}
	return files
}

// halve takes from the key made last what SoftHSM writes last. An object file is a
// generation number, then {type, kind, value} for each attribute, where kind 1 is a
// boolean (one byte), 2 a number (eight), 3 bytes and 4 a template with their length
// first, 5 a set of numbers with its count first.
func halve(t *testing.T, tok *hsm.Token, before []string) {
	t.Helper()
	const class, value, local, origin, check, params = 0x0, 0x11, 0x163, 0x166, 0x90, 0x180
	done := 0
	for _, f := range objects(t, tok) {
		if slices.Contains(before, f) {
			continue
		}
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		out := binary.BigEndian.AppendUint64(nil, binary.BigEndian.Uint64(b)+1) // a new generation, to be read anew
		isKey := false
		for p := 8; p < len(b); {
			typ, kind := binary.BigEndian.Uint64(b[p:]), binary.BigEndian.Uint64(b[p+8:])
			size := map[uint64]int{1: 1, 2: 8}[kind]
			if kind >= 3 {
				size = 8 + int(binary.BigEndian.Uint64(b[p+16:]))*map[uint64]int{3: 1, 4: 1, 5: 8}[kind]
			}
			entry := bytes.Clone(b[p : p+16+size])
			p += 16 + size
			switch typ {
			case class:
				v := binary.BigEndian.Uint64(entry[16:])
				isKey = v == 3 || v == 4 // CKO_PRIVATE_KEY, CKO_SECRET_KEY
			case local:
				entry[16] = 0
			case value, check, params:
				entry = append(entry[:16], make([]byte, 8)...) // empty
			case origin:
				copy(entry[16:], bytes.Repeat([]byte{0xff}, 8))
			}
			out = append(out, entry...)
		}
		if !isKey {
			continue
		}
		if err := os.WriteFile(f, out, 0o600); err != nil {
			t.Fatal(err)
		}
		done++
	}
	if done != 1 {
		t.Fatalf("%d object files rewritten", done)
	}
}
