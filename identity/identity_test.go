package identity_test

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/identity"
)

func TestParseIMEI(t *testing.T) {
	t.Parallel()
	for _, row := range []struct{ in, value, text, refused string }{
		{in: "49015420323751", value: "49015420323751", text: "490154203237518"},
		{in: "490154203237518", value: "49015420323751", text: "490154203237518"}, // 3GPP TS 23.003 annex B's own example
		{in: "00440245000001", value: "00440245000001", text: "004402450000017"},
		{in: "490154203237517", refused: "check digit is 7, it should be 8"},
		{in: "4901542032375", refused: "13 digits"},
		{in: "4901542032375180", refused: "IMEISV"},
		{in: "49015420323751a", refused: "only digits"},
		{in: "49015420-323751", refused: "only digits"},
		{in: "٤٩٠١٥٤٢٠٣٢٣٧٥١", refused: "only digits"},
		{in: "", refused: "0 digits"},
	} {
		got, err := identity.ParseIMEI(row.in)
		if row.refused != "" {
			if err == nil || !strings.Contains(err.Error(), row.refused) {
				t.Errorf("%q: %v, want an error with %q", row.in, err, row.refused)
			}
			continue
		}
		if err != nil || got.Value() != row.value || got.String() != row.text {
			t.Errorf("%q: %q, %q, %v", row.in, got.Value(), got.String(), err)
		}
	}
}

// Any one digit mistyped is found by the check digit.
func TestLuhnFindsEverySingleError(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		imei, err := identity.ParseIMEI(rapid.StringMatching(`[0-9]{14}`).Draw(t, "digits"))
		if err != nil {
			t.Fatal(err)
		}
		b := []byte(imei.String())
		i := rapid.IntRange(0, 14).Draw(t, "place")
		b[i] = '0' + (b[i]-'0'+byte(rapid.IntRange(1, 9).Draw(t, "shift")))%10
		if _, err := identity.ParseIMEI(string(b)); err == nil {
			t.Fatalf("%s passes for %s", b, imei)
		}
	})
}

func TestIdentities(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		typ              identity.Type
		in, value, urn   string
		refusedWith, why string
	}{
		{typ: identity.TypeIMEI, in: "490154203237518", value: "49015420323751", urn: "urn:gsma:imei:49015420-323751-0"},
		{typ: identity.TypeEUI48, in: "00:24:BE:80:4f:f1", value: "0024be804ff1", urn: "urn:dev:mac:0024befffe804ff1"},
		{typ: identity.TypeEUI48, in: "01-24-be-80-4f-f1", refusedWith: "group address"},
		{typ: identity.TypeEUI64, in: "0024beff80804ff1", value: "0024beff80804ff1", urn: "urn:dev:mac:0024beff80804ff1"},
		{typ: identity.TypeEUI64, in: "0024befffe804ff1", refusedWith: "maps an EUI-48"},
		{typ: identity.TypeEUI64, in: "0000000000000000", refusedWith: "all zero"},
		{typ: identity.TypeSerial, in: "32473-A1B2.C3", value: "32473-A1B2.C3", urn: "urn:dev:os:32473-A1B2.C3"},
		{typ: identity.TypeSerial, in: "032473-A", refusedWith: "not an enterprise number"},
		{typ: identity.TypeSerial, in: "32473-a", refusedWith: "not a capital letter"},
		{typ: identity.TypeSerial, in: "A1B2", refusedWith: "hyphen"},
		{typ: 9, in: "1", refusedWith: "not known"},
	} {
		id, err := identity.Parse(row.typ, row.in)
		if row.refusedWith != "" {
			if err == nil || !strings.Contains(err.Error(), row.refusedWith) {
				t.Errorf("%q: %v, want an error with %q", row.in, err, row.refusedWith)
			}
			continue
		}
		if err != nil {
			t.Errorf("%q: %v", row.in, err)
			continue
		}
		if id.Value() != row.value || id.URN() != row.urn || id.Type() != row.typ {
			t.Errorf("%q: value %q, URN %q", row.in, id.Value(), id.URN())
		}
		if back, err := identity.FromURN(id.URN()); err != nil || back != id {
			t.Errorf("%q: its URN reads as %v, %v", row.in, back, err)
		}
		if back, err := identity.FromValue(row.typ, id.Value()); err != nil || back != id {
			t.Errorf("%q: its value reads as %v, %v", row.in, back, err)
		}
	}
	for _, urn := range []string{"", "urn:gsma:imei:49015420-323751-8", "urn:gsma:imei:49015420323751", "urn:dev:mac:0024BEFFFE804FF1", "urn:dev:os:x"} {
		if id, err := identity.FromURN(urn); err == nil {
			t.Errorf("URN %q is accepted as %v", urn, id)
		}
	}
	if _, err := identity.FromValue(identity.TypeIMEI, "490154203237518"); err == nil {
		t.Error("15 digits pass for the canonical text of an IMEI")
	}
}

func TestChipIDHides(t *testing.T) {
	t.Parallel()
	raw := []byte("\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\xff")
	c, err := identity.ParseChipID(raw)
	if err != nil {
		t.Fatal(err)
	}
	var log strings.Builder
	slog.New(slog.NewTextHandler(&log, nil)).Info("x", "chip", c, "claims", fmt.Sprintf("%+v", identity.Claims{ChipID: c}))
	for _, s := range []string{fmt.Sprint(c), fmt.Sprintf("%v %+v %#v %x %X %q %s", c, c, c, c, c, c, c), log.String()} {
		for _, leak := range []string{"112233", "\x11\x22\x33", `\x11\"3`, "17 34 51"} {
			if strings.Contains(strings.ToLower(s), leak) {
				t.Errorf("%q shows the chip ID", s)
			}
		}
	}
	if b, err := json.Marshal(struct{ C identity.ChipID }{c}); err == nil {
		t.Errorf("a chip ID was written as JSON: %s", b)
	}
	for _, bad := range [][]byte{nil, make([]byte, 16), raw[:15], append(raw, 1)} {
		if _, err := identity.ParseChipID(bad); err == nil {
			t.Errorf("%d bytes %x are accepted", len(bad), bad)
		}
	}
	if id, err := identity.ParseRecordID(c.RecordID().String()); err != nil || id != c.RecordID() {
		t.Errorf("record id round trip: %v", err)
	}
	for _, bad := range []string{"", strings.ToUpper(c.RecordID().String()), c.RecordID().String()[1:] + "g", c.RecordID().Short()} {
		if _, err := identity.ParseRecordID(bad); err == nil && strings.ContainsAny(bad, "ABCDEFg ") {
			t.Errorf("record id %q is accepted", bad)
		}
	}
}

func TestParseText(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"00440245000001", "004402450000017", "urn:gsma:imei:00440245-000001-0"} {
		id, err := identity.ParseText(text)
		if err != nil || id.URN() != "urn:gsma:imei:00440245-000001-0" {
			t.Errorf("%q: %v, %v", text, id, err)
		}
	}
	for _, text := range []string{"", "0044024500000", "004402450000018", "urn:", "urn:gsma:imei:00440245-000001-7", "URN:gsma:imei:00440245-000001-0"} {
		if id, err := identity.ParseText(text); err == nil {
			t.Errorf("%q is %v", text, id)
		}
	}
}
