package servicekeys_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/servicekeys"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

const dev = identity.Development

func TestMain(m *testing.M) { os.Exit(softhsm.Main(m)) }

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestExportImport: the channel's purpose key goes from the SPP's token into the service's, and both derive the same
// device keys, in contexts of checked identities only.
func TestExportImport(t *testing.T) {
	t.Parallel()
	ctx, h := t.Context(), softhsm.New(t)
	spp, service := h.Open(t, h.Token(t, "spp")), h.Open(t, h.Token(t, "service"))
	must(t, maker.Create(ctx, spp, maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel", "drm"}}))
	made, err := maker.Open(ctx, spp, dev)
	must(t, err)
	if _, err := servicekeys.Open(ctx, service, dev); !errors.Is(err, hsm.ErrNoKey) || !strings.Contains(err.Error(), "custodian token --for deviceservice") {
		t.Errorf("an empty token: %v", err)
	}
	to, err := servicekeys.Create(ctx, service, dev)
	must(t, err)
	if again, err := servicekeys.Create(ctx, service, dev); err != nil || again != to {
		t.Errorf("made twice: another key, %v", err)
	}
	blob, check, err := maker.ExportPurpose(ctx, spp, dev, "channel", 1, to)
	must(t, err)
	if _, err := servicekeys.Import(ctx, service, dev, blob, strings.Repeat("0", 32)); !errors.Is(err, servicekeys.ErrCheck) {
		t.Errorf("another check value: %v", err)
	}
	for range 2 { // the second does nothing
		p, err := servicekeys.Import(ctx, service, dev, blob, check)
		if err != nil || p.Name != "channel" || p.Version != 1 {
			t.Fatalf("%+v, %v", p, err)
		}
	}
	if _, err := servicekeys.Import(ctx, service, identity.Production, blob, check); err == nil {
		t.Error("it was imported into another realm")
	}
	keys, err := servicekeys.Open(ctx, service, dev)
	must(t, err)
	must(t, keys.Check(ctx))
	id, err := identity.TAC("00440200").IMEI(7)
	must(t, err)
	channel := keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}
	if all := keys.Purposes(); len(all) != 1 || all[0] != channel {
		t.Errorf("purposes %v", all)
	}
	context := keypackage.DeviceKeyContext(dev, channel, id, 1, identity.RecordID{1})
	here, err := keys.DeviceKey(ctx, channel, context)
	must(t, err)
	there, err := made.DeviceKey(ctx, channel, context)
	must(t, err)
	mac, err := here.MAC(ctx, []byte("message"))
	must(t, err)
	must(t, there.Verify(ctx, []byte("message"), mac))
	if err := here.Verify(ctx, []byte("another message"), mac); !errors.Is(err, statement.ErrSignature) {
		t.Errorf("a wrong MAC: %v", err)
	}
	must(t, here.Destroy(ctx))
	must(t, here.Destroy(ctx))
	drm := keypackage.KeyID{Name: "drm", KDF: 1, Version: 1}
	if _, err := keys.DeviceKey(ctx, drm, keypackage.DeviceKeyContext(dev, drm, id, 1, identity.RecordID{1})); err == nil || !strings.Contains(err.Error(), "purpose import") {
		t.Errorf("a purpose that it doesn't have: %v", err)
	}
	if _, err := keys.DeviceKey(ctx, channel, []byte("anything")); err == nil {
		t.Error("it derived under something else than an identity's context")
	}
	if _, _, err := maker.ExportPurpose(ctx, spp, dev, "channel", 2, to); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("a version that isn't there: %v", err)
	}
	// A key that somebody else sends under the same name doesn't come in.
	forged, err := transport.WrapSoftware(dev, to, "purpose/channel/1/1", make([]byte, 32))
	must(t, err)
	if _, err := servicekeys.Import(ctx, service, dev, forged, check); !errors.Is(err, servicekeys.ErrCheck) {
		t.Errorf("a forged purpose key: %v", err)
	}
	// A device's key that was made, way two.
	single, err := transport.WrapSoftware(dev, to, "service-key/x", make([]byte, 32))
	must(t, err)
	k, err := keys.Unwrap(ctx, "service-key/x", single)
	must(t, err)
	if _, err := k.MAC(ctx, []byte("m")); err != nil {
		t.Error(err)
	}
	must(t, k.Destroy(ctx))
	if _, err := keys.Unwrap(ctx, "service-key/y", single); !errors.Is(err, transport.ErrOther) {
		t.Errorf("under another label: %v", err)
	}
}

func TestTransportLabel(t *testing.T) {
	t.Parallel()
	for _, s := range []string{"", "purpose/", "purpose/channel", "purpose/channel/1", "purpose/channel/0/1", "purpose/channel/1/3", "purpose/channel/1/1/", "purpose/Channel/1/1", "purpose/channel/01/1", "x/channel/1/1"} {
		if p, err := maker.ParseTransportLabel(dev, s); err == nil {
			t.Errorf("%q reads as %+v", s, p)
		}
	}
	p := maker.Purpose{Realm: dev, Name: "channel", Version: 3, KDF: hsm.KDF2}
	if got, err := maker.ParseTransportLabel(dev, p.TransportLabel()); err != nil || got != p {
		t.Errorf("%+v, %v", got, err)
	}
}
