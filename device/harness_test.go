package device_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/chip/chiptest"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

// maker makes chips of one sort, that can be opened again and again.
type maker func(t testing.TB) (open func() (chip.Chip, error))

// onEachChip runs a test over both implementations.
func onEachChip(t *testing.T, test func(t *testing.T, make maker)) {
	t.Parallel()
	t.Run("software", func(t *testing.T) {
		t.Parallel()
		test(t, softwareChips)
	})
	t.Run("token", func(t *testing.T) {
		t.Parallel()
		test(t, tokenChips(t))
	})
}

func softwareChips(t testing.TB) func() (chip.Chip, error) {
	path := filepath.Join(t.TempDir(), "chip")
	if _, err := chip.NewSoftware(identity.Development, 32, path); err != nil {
		t.Fatal(err)
	}
	return func() (chip.Chip, error) { return chip.OpenSoftware(path) }
}

func tokenChips(t testing.TB) maker {
	h := softhsm.New(t)
	r, err := chip.OpenRack(t.Context(), h.Directory.Module(), h.Directory.LockFile(), identity.Development)
	must(t, err)
	t.Cleanup(func() { must(t, r.Close()) })
	return func(t testing.TB) func() (chip.Chip, error) {
		label, pin := "dev-"+strings.ToLower(rand.Text()[:10]), secret.Random(16)
		_, err := r.Init(t.Context(), label, secret.Random(16), pin)
		must(t, err)
		c, err := r.Make(t.Context(), label, pin, 32)
		must(t, err)
		must(t, c.Close(t.Context()))
		return func() (chip.Chip, error) { return r.Open(context.Background(), label, pin) }
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// watched is a chip that counts how often it was asked to encrypt.
type watched struct {
	chip.Chip
	protected atomic.Int64
}

func (w *watched) Protect(ctx context.Context, claims [32]byte) (chip.Protection, error) {
	w.protected.Add(1)
	return w.Chip.Protect(ctx, claims)
}

// unit is a device with what stays of it over a reset.
type unit struct {
	*device.Device
	chip  *watched
	open  func() (chip.Chip, error)
	image string
	spp   *chiptest.SPP
}

// newUnit makes a device with the SPP's key in ROM and nothing in flash.
func newUnit(t testing.TB, make maker, spp *chiptest.SPP) *unit {
	t.Helper()
	u := &unit{open: make(t), image: filepath.Join(t.TempDir(), "flash.img"), spp: spp}
	must(t, flash.Create(u.image))
	u.start(t)
	t.Cleanup(func() { must(t, u.Close(context.Background())) })
	must(t, u.WriteROM(t.Context(), spp.ROMKey()))
	return u
}

func (u *unit) start(t testing.TB) {
	t.Helper()
	c, err := u.open()
	must(t, err)
	f, err := flash.Open(u.image)
	must(t, err)
	u.chip = &watched{Chip: c}
	u.Device, err = device.Open(t.Context(), device.Config{Chip: u.chip, Flash: f})
	must(t, err)
}

// reset closes every session and starts again.
func (u *unit) reset(t testing.TB) {
	t.Helper()
	must(t, u.Close(t.Context()))
	u.start(t)
}

// remains is all that stays of a device over a reset, and whether its chip
// encrypted anything since it was opened.
type remains struct {
	Flash     []byte
	Fuses     chip.Fuses
	ROM       statement.PublicKey
	Protected int64
}

func (u *unit) remains(t testing.TB) remains {
	t.Helper()
	b, err := os.ReadFile(u.image)
	must(t, err)
	f, err := u.chip.Fuses(t.Context())
	must(t, err)
	rom, err := u.chip.ROMKey(t.Context())
	must(t, err)
	return remains{Flash: b, Fuses: f, ROM: rom, Protected: u.chip.protected.Load()}
}

// order says hello and has the SPP answer.
func (u *unit) order(t testing.TB, o chiptest.Order) chiptest.Assembly {
	t.Helper()
	raw, err := u.Hello(t.Context(), keypackage.SuiteAttested)
	must(t, err)
	return u.spp.Assemble(t, chiptest.ParseHello(t, raw, u.chip.Attester().Public()), o)
}

// provision takes a device through the line: package, backup, erase, restore,
// boot, published.
func (u *unit) provision(t testing.TB, o chiptest.Order, unlock []byte) (chiptest.Assembly, device.Accepted) {
	t.Helper()
	a := u.order(t, o)
	accepted, err := u.Accept(t.Context(), a.Package, unlock)
	must(t, err)
	must(t, u.Erase(t.Context()))
	u.reset(t)
	must(t, u.Restore(t.Context(), a.Certificate.Bytes(), accepted.Backup))
	_, err = u.Boot(t.Context())
	must(t, err)
	_, err = u.Published(t.Context(), a.Published())
	must(t, err)
	return a, accepted
}

func (u *unit) unlock(t testing.TB, next identity.Generation) []byte {
	t.Helper()
	raw, err := identity.SignUnlock(t.Context(), u.spp, identity.Unlock{Realm: u.Realm(), Record: u.Record(), Next: next})
	must(t, err)
	return raw
}

// refused checks that an act is refused for a reason, and that nothing that
// stays of the device has changed by it.
func (u *unit) refused(t testing.TB, want device.Reason, act func() error) {
	t.Helper()
	before := u.remains(t)
	err := act()
	var r *device.Refusal
	if !errors.As(err, &r) {
		t.Fatalf("want a refusal (%s), got %v", want, err)
	}
	if r.Reason != want {
		t.Errorf("refused: %v, want reason %s", err, want)
	}
	if r.Next() == "" || r.Detail == "" || r.Refused() != string(r.Reason) {
		t.Errorf("refusal %q lacks detail or next step", err)
	}
	id := u.chip.ID().Bytes()
	if strings.Contains(err.Error(), string(id)) || strings.Contains(err.Error(), hex.EncodeToString(id)) {
		t.Error("the refusal shows the chip ID")
	}
	after := u.remains(t)
	if !bytes.Equal(before.Flash, after.Flash) || before.Fuses != after.Fuses || before.ROM != after.ROM {
		t.Errorf("the refusal (%s) left something changed", r.Reason)
	}
	if before.Protected != after.Protected {
		t.Errorf("something was encrypted that was refused (%s)", r.Reason)
	}
}

func flip(b []byte, at int) []byte {
	out := append([]byte(nil), b...)
	out[at] ^= 0x01
	return out
}
