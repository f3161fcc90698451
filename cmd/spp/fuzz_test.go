package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
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
	secret, err := transport.SealSoftware(identity.Development, to, "secret urn:gsma:imei:00440200-000100-0 code", []byte("73318500"))
	must(f, err)
	sealed := base64.StdEncoding.EncodeToString(secret)
	text, point := base64.StdEncoding.EncodeToString(blob), base64.StdEncoding.EncodeToString(to.Point())
	p := profile.Profile{Name: "phone", Identity: identity.TypeIMEI}
	entries := map[string]profile.Entry{
		"drm":  {Name: "drm", Algorithm: keypackage.HMACSHA256, Source: profile.Imported},
		"sign": {Name: "sign", Algorithm: keypackage.ES256, Source: profile.Imported},
		"code": {Name: "code", Algorithm: keypackage.None, Source: profile.Imported},
	}
	for _, good := range []string{"00440200000100,drm,," + text, " 00440200000100 , sign," + point + ", " + text, "00440200000100,code,," + sealed} {
		if _, err := parseKeyLine(good, p, entries); err != nil {
			f.Fatal(err)
		}
		f.Add(good)
	}
	for _, s := range []string{
		"00440200000100,drm," + point + "," + text, "00440200000100,sign,," + text, "00440200000100,other,," + text, "0044020000010,drm,," + text,
		"00440200000100,drm,,", "00440200000100,drm,," + text + ",", "00440200000100,drm,," + text[:40], "00440200000100,drm,,=", ",,,",
		"00440200000100,drm,," + sealed, "00440200000100,code,," + text, "00440200000100,code," + point + "," + sealed, "00440200000100,code,,",
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
		_, err = transport.ReadLabel(l.blob)
		if l.entry.WaitingSecret() {
			_, err = keypackage.ParseTransportSecret(l.blob)
		}
		if err != nil {
			t.Fatalf("%q: %v", text, err)
		}
	})
}

// FuzzParseClearLine: a line of keys in clear reads as what it says, of the identities' type, and is wrapped; or is refused,
// by an error that repeats nothing of its value.
func FuzzParseClearLine(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(f, err)
	to, err := statement.FromECDSA(&key.PublicKey)
	must(f, err)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(f, err)
	pair, symmetric := base64.StdEncoding.EncodeToString(der), base64.StdEncoding.EncodeToString(make([]byte, 32))
	for _, good := range []string{"00440200000100,tls,pair," + pair, " 00440200000100 , drm, symmetric , " + symmetric, "00440200000100,code,secret,NzMzMTg1MDA="} {
		if _, err := parseClearLine([]byte(good), identity.TypeIMEI); err != nil {
			f.Fatal(err)
		}
		f.Add(good)
	}
	for _, s := range []string{
		"00440200000100,tls,pair," + symmetric, "00440200000100,drm,symmetric," + pair, "00440200000100,code,secret,", "00440200000100,code,key,AAAA", "0044020000010,code,secret,AAAA",
		"00440200000100,Code,secret,AAAA", "00440200000100,,secret,AAAA", "00440200000100,code,secret,AAAA,", "00440200000100,code,secret,AA=A", ",,,",
		"00440200000100,code,secret," + base64.StdEncoding.EncodeToString(make([]byte, keypackage.MaxSecret+1)),
	} {
		if _, err := parseClearLine([]byte(s), identity.TypeIMEI); err == nil {
			f.Fatalf("%q is read", s)
		}
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		l, err := parseClearLine([]byte(text), identity.TypeIMEI)
		fields := strings.Split(text, ",")
		if err != nil {
			if l.value != nil {
				t.Fatal("a value beside an error")
			}
			if last := strings.TrimSpace(fields[len(fields)-1]); len(fields) == 4 && len(last) > 40 && strings.Contains(err.Error(), last) {
				t.Fatalf("the error repeats the value: %v", err)
			}
			return
		}
		if len(fields) != 4 || l.id.Type() != identity.TypeIMEI || l.entry != strings.TrimSpace(fields[1]) || l.form != strings.TrimSpace(fields[2]) || (l.form == formPair) != (len(l.point) == 65) {
			t.Fatalf("%q reads as %s, %q, %q", text, l.id, l.entry, l.form)
		}
		line, err := l.wrap(identity.Development, to)
		if err != nil {
			t.Fatalf("%q reads, and isn't wrapped: %v", text, err)
		}
		algorithm := map[string]keypackage.Algorithm{formPair: keypackage.ES256, formSymmetric: keypackage.AES256GCM, formSecret: keypackage.None}[l.form]
		p := profile.Profile{Name: "phone", Identity: identity.TypeIMEI}
		if _, err := parseKeyLine(strings.TrimSpace(line), p, map[string]profile.Entry{l.entry: {Name: l.entry, Algorithm: algorithm, Source: profile.Imported}}); err != nil || len(line) > maxKeyLine {
			t.Fatalf("%q is wrapped as %q: %v", text, line, err)
		}
	})
}
