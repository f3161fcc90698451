package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/statement"
)

// FuzzParseKeyLine: a line of a vendor's file reads as what it says, of this product line, or is refused.
func FuzzParseKeyLine(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(f, err)
	to, err := statement.FromECDSA(&key.PublicKey)
	must(f, err)
	blob, err := transport.WrapSoftware(identity.Development, to, "00440200000100/drm", make([]byte, 32))
	must(f, err)
	text, point := base64.StdEncoding.EncodeToString(blob), base64.StdEncoding.EncodeToString(to.Point())
	p := profile.Profile{Name: "phone", Identity: identity.TypeIMEI}
	entries := map[string]profile.Entry{
		"drm":  {Name: "drm", Algorithm: keypackage.HMACSHA256, Source: profile.Imported},
		"sign": {Name: "sign", Algorithm: keypackage.ES256, Source: profile.Imported},
	}
	for _, good := range []string{"00440200000100,drm,," + text, " 00440200000100 , sign," + point + ", " + text} {
		if _, err := parseKeyLine(good, p, entries); err != nil {
			f.Fatal(err)
		}
		f.Add(good)
	}
	for _, s := range []string{
		"00440200000100,drm," + point + "," + text, "00440200000100,sign,," + text, "00440200000100,other,," + text, "0044020000010,drm,," + text,
		"00440200000100,drm,,", "00440200000100,drm,," + text + ",", "00440200000100,drm,," + text[:40], "00440200000100,drm,,=", ",,,",
	} {
		if _, err := parseKeyLine(s, p, entries); err == nil {
			f.Fatalf("%q is read", s)
		}
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseKeyLine(text, p, entries)
		if err != nil {
			return
		}
		fields := strings.Split(text, ",")
		if len(fields) != 4 || l.id.Type() != p.Identity || entries[strings.TrimSpace(fields[1])] != l.entry {
			t.Fatalf("%q reads as %s of %q", text, l.id, l.entry.Name)
		}
		if id, err := identity.Parse(p.Identity, strings.TrimSpace(fields[0])); err != nil || id != l.id {
			t.Fatalf("%q reads as identity %s: %v", text, l.id, err)
		}
		if l.entry.Algorithm.Pair() != (len(l.public) > 0) {
			t.Fatalf("%q has a public half of %d bytes", text, len(l.public))
		}
		// Line breaks are the one thing that base64 reads and doesn't write; a line of a file has none.
		if strings.ContainsAny(text, "\r\n") {
			return
		}
		for i, b := range [][]byte{l.public, l.blob} {
			if again, err := base64.StdEncoding.DecodeString(strings.TrimSpace(fields[2+i])); err != nil || !slices.Equal(again, b) {
				t.Fatalf("%q: %x, %v", text, b, err)
			}
		}
		if _, err := transport.ReadLabel(l.blob); err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}
