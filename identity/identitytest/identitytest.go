// Package identitytest has certificates for tests by which implementations of
// the formats are held together: the module's own, the one in C for boot ROMs,
// and the one in Python. All take [EveryLayout] and refuse [BadClaims].
package identitytest

import (
	"bytes"
	"fmt"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Certificate is one as a maker signs it, with what it was made of.
type Certificate struct {
	Name   string          // of the case
	Claims identity.Claims // what it says
	Coded  []byte          // the claims' encoding
	Raw    []byte          // the certificate
}

// EveryLayout makes a certificate for each type of identity and length of chip
// ID; of serial numbers the shortest and the longest, and those around the
// place where the text's head grows. Failures end the test.
func EveryLayout(t testing.TB, s statement.Signer) []Certificate {
	t.Helper()
	var all []Certificate
	for _, chipLen := range []int{16, 24, 32} {
		for i, in := range []struct {
			typ  identity.Type
			text string
		}{
			{identity.TypeIMEI, "00440245000001"}, {identity.TypeEUI48, "0024be804ff1"}, {identity.TypeEUI64, "0024befffd804ff1"},
			{identity.TypeSerial, "1-A"}, {identity.TypeSerial, "32473-A.B.CD"}, {identity.TypeSerial, "32473-A.B.CDE"},
			{identity.TypeSerial, "4294967295-ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"},
		} {
			id, err := identity.FromValue(in.typ, in.text)
			if err != nil {
				t.Fatal(err)
			}
			chip, err := identity.ParseChipID(bytes.Repeat([]byte{0xc1, byte(i)}, chipLen/2))
			if err != nil {
				t.Fatal(err)
			}
			c := identity.Claims{Subject: id, IssuedAt: 1700000000, ChipID: chip, Realm: identity.Production, Generation: 0x01020304, Manifest: [32]byte{7: 7}}
			m := Certificate{Name: fmt.Sprintf("%s %s, %d", in.typ, in.text, chipLen), Claims: c}
			if m.Coded, err = c.Encode(); err != nil {
				t.Fatal(err)
			}
			cert, err := identity.SignCertificate(t.Context(), s, m.Coded)
			if err != nil {
				t.Fatal(err)
			}
			m.Raw = cert.Bytes()
			all = append(all, m)
		}
	}
	return all
}

// BadClaims are claims sets by the name of the one mistake each has, which only
// a signer gone wrong would sign: the last defence. They are of the realm
// development and of the chip whose ID is 16 bytes of c1. Every implementation
// refuses every one of them.
func BadClaims() map[string][]byte {
	set := func(urn string, at uint64, generation []byte, realm int) []byte {
		b := []byte{0xa6}
		put := func(parts ...any) {
			for _, p := range parts {
				b = append(b, detcbor.Must(p)...)
			}
		}
		put(2, urn, 6, at, 256, append([]byte{1}, bytes.Repeat([]byte{0xc1}, 16)...), -65537, realm, -65538, generation, -65539, make([]byte, 32))
		return b
	}
	one, now := []byte{0, 0, 0, 1}, uint64(1700000000)
	bad := map[string][]byte{
		"generation 0":        set("urn:gsma:imei:00440245-000001-0", now, make([]byte, 4), 1),
		"generation of 3":     set("urn:gsma:imei:00440245-000001-0", now, one[:3], 1),
		"realm 3":             set("urn:gsma:imei:00440245-000001-0", now, one, 3),
		"an early time":       set("urn:gsma:imei:00440245-000001-0", 65535, one, 1),
		"a late time":         set("urn:gsma:imei:00440245-000001-0", 1<<32, one, 1),
		"a time written long": bytes.Replace(set("urn:gsma:imei:00440245-000001-0", 0x10001, one, 1), []byte{0x1a, 0, 1, 0, 1}, []byte{0x1a, 0, 0, 0, 1}, 1),
		// 23 characters, whose head is the last of one byte.
		"a subject's head written long": bytes.Replace(set("urn:dev:os:32473-A.B.CD", now, one, 1), []byte{0x02, 0x77}, []byte{0x02, 0x78, 0x17}, 1),
		"a chip ID's head written long": bytes.Replace(set("urn:dev:os:32473-A.B.CD", now, one, 1), []byte{0x51, 0x01}, []byte{0x58, 0x11, 0x01}, 1),
	}
	for _, urn := range []string{
		"urn:gsma:imei:00440245-000001-1", "urn:gsma:imei:0044024-5000001-0", "urn:gsma:imei:0044024a-000001-0", "urn:gsma:imei:004402450000001-0",
		"URN:gsma:imei:00440245-000001-0", "urn:gsma:imei:00440245-000001:0", "urn:gsma:imei:00440245-000001-\x00",
		"urn:dev:mac:0124befffe804ff1", "urn:dev:mac:0b24befffe804ff1", "urn:dev:mac:0024BEfffe804ff1", "urn:dev:mac:000000fffe000000",
		"urn:dev:mac:0000000000000000", "urn:dev:mac:0f24be8040004ff1", "urn:dev:mac:0024befffe804ffg", "urn:dev:mac:0024be-ffe804ff1", "urn:dev:max:0024befffe804ff1",
		"urn:dev:os:0-A", "urn:dev:os:01-A", "urn:dev:os:-AB", "urn:dev:os:12-", "urn:dev:os:1-", "urn:dev:os:12345678901-A", "urn:dev:os:1-a", "urn:dev:os:1-A-B", "urn:dev:os:1234",
		"urn:dev:os:1-A_B", "urn:dev:os:1A-B", "urn:dev:os:1-ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456", "urn:dev:ot:1-ABC", "urn:dev:os:1-A\x00",
	} {
		bad[fmt.Sprintf("%q", urn)] = set(urn, now, one, 1)
	}
	return bad
}
