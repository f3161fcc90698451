package chip_test

import (
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

// bench makes token chips in the test process's token directory.
type bench struct {
	hsm  *softhsm.HSM
	rack *chip.Rack

	mu   sync.Mutex
	pins map[string]secret.Secret // by label
}

func newBench(t *testing.T) *bench {
	t.Helper()
	h := softhsm.New(t)
	r, err := chip.OpenRack(t.Context(), h.Directory.Module(), h.Directory.LockFile(), identity.Development)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return &bench{hsm: h, rack: r, pins: map[string]secret.Secret{}}
}

func (b *bench) label() string { return "dev-" + strings.ToLower(rand.Text()[:10]) }

// token initialises a token with nothing in it.
func (b *bench) token(t *testing.T) (label string, pin secret.Secret) {
	t.Helper()
	label, pin = b.label(), secret.Random(16)
	if fresh, err := b.rack.Init(t.Context(), label, secret.Random(16), pin); err != nil || !fresh {
		t.Fatal(fresh, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pins[label] = pin
	return label, pin
}

func (b *bench) new(t *testing.T, size int) chip.Chip {
	t.Helper()
	label, pin := b.token(t)
	c, err := b.rack.Make(t.Context(), label, pin, size)
	if err != nil {
		t.Fatal(err)
	}
	return b.closing(t, c)
}

func (b *bench) closing(t *testing.T, c *chip.Token) chip.Chip {
	t.Cleanup(func() {
		if err := c.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
	return c
}

func (b *bench) reopen(t *testing.T, c chip.Chip) chip.Chip {
	t.Helper()
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	label := c.Describe().Label
	b.mu.Lock()
	pin := b.pins[label]
	b.mu.Unlock()
	again, err := b.rack.Open(t.Context(), label, pin)
	if err != nil {
		t.Fatal(err)
	}
	return b.closing(t, again)
}

func TestToken(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	// The suite's parallel tests end before the bench does.
	t.Run("suite", func(t *testing.T) {
		chiptest.Run(t, chiptest.Bench{New: b.new, Reopen: b.reopen})
	})
}

// put writes data objects as a chip maker who errs would.
func (b *bench) put(t *testing.T, label string, pin secret.Secret, objects ...hsm.Data) {
	t.Helper()
	tok := b.hsm.Open(t, softhsm.Token{Label: label, PIN: pin})
	for _, o := range objects {
		if err := tok.PutData(t.Context(), o); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChipIDIsExactlyOne(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	id := func(label string, value []byte) hsm.Data {
		return hsm.Data{Application: "devicekeys", Label: label, Value: value, Private: true, OneWay: true}
	}
	changeable := id("dev-chip-id", chiptest.Random(32))
	changeable.OneWay = false
	for _, c := range []struct {
		name    string
		objects []hsm.Data
		want    string
	}{
		{"none", nil, "no chip ID"},
		{"two", []hsm.Data{id("dev-chip-id", chiptest.Random(32)), id("dev-chip-id", chiptest.Random(32))}, "2 chip IDs"},
		{"one of each realm", []hsm.Data{id("dev-chip-id", chiptest.Random(32)), id("prod-chip-id", chiptest.Random(32))}, "2 chip IDs"},
		{"object of another realm", []hsm.Data{id("dev-chip-id", chiptest.Random(32)), id("prod-lock", []byte{1})}, "not of realm development"},
		{"another realm", []hsm.Data{id("prod-chip-id", chiptest.Random(32))}, "realm production"},
		{"all zero", []hsm.Data{id("dev-chip-id", make([]byte, 32))}, "all zero"},
		{"wrong length", []hsm.Data{id("dev-chip-id", chiptest.Random(17))}, "17 bytes"},
		{"changeable", []hsm.Data{changeable}, "can be changed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			label, pin := b.token(t)
			b.put(t, label, pin, c.objects...)
			got, err := b.rack.Open(t.Context(), label, pin)
			if err == nil {
				_ = got.Close(t.Context())
				t.Fatal("the chip was opened")
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %q does not say %q", err, c.want)
			}
			for _, o := range c.objects {
				if strings.Contains(err.Error(), string(o.Value)) {
					t.Error("the error shows a chip ID")
				}
			}
			if c.name == "none" && !errors.Is(err, chip.ErrNoChip) {
				t.Errorf("error %v does not match ErrNoChip", err)
			}
		})
	}
}

func TestManufactureFinishesWhatWasCutOff(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	label, pin := b.token(t)
	tok := b.hsm.Open(t, softhsm.Token{Label: label, PIN: pin})
	// As after a kill between the chip key and the attestation key.
	if _, err := tok.Generate(t.Context(), hsm.Spec{Kind: hsm.ChipKey, Label: "dev-chip-key", Token: true}); err != nil {
		t.Fatal(err)
	}
	c, err := b.rack.Make(t.Context(), label, pin, 24)
	if err != nil {
		t.Fatal(err)
	}
	id := c.ID()
	if err := c.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	// A finished chip stays as it is, whatever is asked.
	again, err := b.rack.Make(t.Context(), label, pin, 32)
	if err != nil {
		t.Fatal(err)
	}
	b.closing(t, again)
	if again.ID() != id || again.ID().Len() != 24 {
		t.Error("a finished chip was made anew")
	}
}

func TestInitIsRepeatable(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	label, pin := b.token(t)
	if fresh, err := b.rack.Init(t.Context(), label, secret.Random(16), pin); err != nil || fresh {
		t.Errorf("a token that is there, with its PIN: %t, %v", fresh, err)
	}
	if _, err := b.rack.Init(t.Context(), label, secret.Random(16), secret.Random(16)); !errors.Is(err, chip.ErrTaken) {
		t.Errorf("a token that is there, with another PIN: %v, want ErrTaken", err)
	}
}

func TestROMKeysThatDiffer(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	label, pin := b.token(t)
	c, err := b.rack.Make(t.Context(), label, pin, 32)
	if err != nil {
		t.Fatal(err)
	}
	b.closing(t, c)
	for range 2 {
		b.put(t, label, pin, hsm.Data{Application: "devicekeys", Label: "dev-rom-key", Value: chiptest.NewSPP(t, identity.Development).ROMKey().Point(), OneWay: true})
	}
	if _, err := c.ROMKey(t.Context()); err == nil || !strings.Contains(err.Error(), "two ROM keys") {
		t.Errorf("two ROM keys give %v", err)
	}
	b.put(t, label, pin, hsm.Data{Application: "devicekeys", Label: "dev-floor", Value: []byte{1}, Private: true, OneWay: true})
	if _, err := c.Fuses(t.Context()); err == nil {
		t.Error("a malformed floor was read")
	}
}

func TestRackRefusesProduction(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	label, pin := b.token(t)
	r, err := chip.OpenRack(t.Context(), b.hsm.Directory.Module(), b.hsm.Directory.LockFile(), identity.Production)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if _, err := r.Open(t.Context(), label, pin); !errors.Is(err, hsm.ErrProduction) {
		t.Errorf("a SoftHSM token in production gives %v, want ErrProduction", err)
	}
}
