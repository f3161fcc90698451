package grant_test

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/grant"
)

func sample() grant.Grant {
	return grant.Grant{
		Realm: identity.Development, Station: "line-1", Line: "phone",
		TACs: []grant.TACRange{{From: "00440200", To: "00440299"}}, Quota: 100000,
	}
}

const sampleURI = "devicekeys://development/station/line-1?line=phone&tac=00440200-00440299&quota=100000"

func TestURI(t *testing.T) {
	t.Parallel()
	if got := sample().URI().String(); got != sampleURI {
		t.Errorf("URI is %q, want %q", got, sampleURI)
	}
	if got, want := grant.PeerURI(identity.Production, "spp", "spp-1").String(), "devicekeys://production/spp/spp-1"; got != want {
		t.Errorf("peer's URI is %q, want %q", got, want)
	}
}

func TestParse(t *testing.T) {
	t.Parallel()
	long := func(n int) string {
		var all []string
		for i := range n {
			all = append(all, fmt.Sprintf("%08d-%08d", 2*i, 2*i))
		}
		return "devicekeys://development/station/a?line=b&tac=" + strings.Join(all, ",") + "&quota=1"
	}
	for _, c := range []struct{ name, uri, refused string }{
		{"sample", sampleURI, ""},
		{"production", strings.Replace(sampleURI, "development", "production", 1), ""},
		{"two ranges", strings.Replace(sampleURI, "00440299", "00440299,00440301-00440301", 1), ""},
		{"any", strings.Replace(sampleURI, "00440200-00440299", "any", 1), ""},
		{"all ranges", long(grant.MaxTACs), ""},
		{"too many ranges", long(grant.MaxTACs + 1), "TAC ranges"},
		{"empty", "", "does not begin"},
		{"other scheme", strings.Replace(sampleURI, "devicekeys:", "https:", 1), "does not begin"},
		{"capital scheme", strings.Replace(sampleURI, "devicekeys:", "Devicekeys:", 1), "does not begin"},
		{"unknown realm", strings.Replace(sampleURI, "development", "staging", 1), "realm"},
		{"a program's", "devicekeys://development/spp/spp-1", "program"},
		{"capitals", strings.Replace(sampleURI, "line-1", "Line-1", 1), "lower-case"},
		{"escape", strings.Replace(sampleURI, "line-1", "line%2d1", 1), "lower-case"},
		{"hyphen first", strings.Replace(sampleURI, "line-1", "-line", 1), "lower-case"},
		{"deeper path", strings.Replace(sampleURI, "line-1", "line-1/x", 1), "expected"},
		{"no query", "devicekeys://development/station/line-1", "line, tac and quota"},
		{"other order", "devicekeys://development/station/line-1?tac=any&line=phone&quota=1", "line, tac and quota"},
		{"twice", sampleURI + "&quota=2", "number"},
		{"more", sampleURI + "&admin=1", "number"},
		{"fragment", sampleURI + "#x", "number"},
		{"no TAC", strings.Replace(sampleURI, "00440200-00440299", "", 1), "TAC"},
		{"one code", strings.Replace(sampleURI, "00440200-00440299", "00440200", 1), "canonical"},
		{"short TAC", strings.Replace(sampleURI, "00440200-", "0044020-", 1), "TAC"},
		{"backward", strings.Replace(sampleURI, "00440200-00440299", "00440299-00440200", 1), "before it begins"},
		{"overlap", strings.Replace(sampleURI, "00440299", "00440299,00440299-00440300", 1), "overlap"},
		{"descending", strings.Replace(sampleURI, "00440299", "00440299,00440100-00440101", 1), "overlap"},
		{"quota 0", strings.Replace(sampleURI, "quota=100000", "quota=0", 1), "quota"},
		{"quota negative", strings.Replace(sampleURI, "quota=100000", "quota=-1", 1), "quota"},
		{"quota padded", strings.Replace(sampleURI, "quota=100000", "quota=0100000", 1), "canonical"},
		{"quota signed", strings.Replace(sampleURI, "quota=100000", "quota=+100000", 1), "canonical"},
		{"quota huge", strings.Replace(sampleURI, "quota=100000", "quota=10000000000000", 1), "quota"},
		{"quota beyond", strings.Replace(sampleURI, "quota=100000", "quota=99999999999999999999", 1), "number"},
		{"long", "devicekeys://development/station/" + strings.Repeat("a", 2000), "bytes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g, err := grant.Parse(c.uri)
			switch {
			case c.refused == "" && err != nil:
				t.Fatalf("refused: %v", err)
			case c.refused == "" && g.String() != c.uri:
				t.Fatalf("parsed and written again it is %q", g)
			case c.refused != "" && err == nil:
				t.Fatalf("accepted as %+v", g)
			case c.refused != "" && !strings.Contains(err.Error(), c.refused):
				t.Fatalf("refused because %q, want a reason with %q", err, c.refused)
			}
		})
	}
}

func TestAllows(t *testing.T) {
	t.Parallel()
	imei := func(s string) identity.Identity {
		i, err := identity.ParseIMEI(s)
		if err != nil {
			t.Fatal(err)
		}
		return i
	}
	serial, err := identity.ParseSerial("32473-A1")
	if err != nil {
		t.Fatal(err)
	}
	limited, anything := sample(), sample()
	limited.TACs = append(limited.TACs, grant.TACRange{From: "35420900", To: "35420900"})
	anything.TACs = nil
	for _, c := range []struct {
		name  string
		grant grant.Grant
		id    identity.Identity
		allow bool
	}{
		{"first of the range", limited, imei("00440200000000"), true},
		{"last of the range", limited, imei("00440299999999"), true},
		{"second range", limited, imei("35420900000001"), true},
		{"below", limited, imei("00440199999999"), false},
		{"above", limited, imei("00440300000000"), false},
		{"between", limited, imei("10000000000000"), false},
		{"no IMEI", limited, serial, false},
		{"zero IMEI", limited, identity.IMEI{}, false},
		{"nothing", limited, nil, false},
		{"any IMEI", anything, imei("35420900000001"), true},
		{"any serial", anything, serial, true},
		{"any nothing", anything, nil, false},
	} {
		if err := c.grant.Allows(c.id); (err == nil) != c.allow {
			t.Errorf("%s: Allows gives %v, want allowed %v", c.name, err, c.allow)
		}
	}
	if err := limited.Allows(imei("00440300000000")); err == nil || !strings.Contains(err.Error(), "00440200-00440299") || !strings.Contains(err.Error(), `"line-1"`) {
		t.Errorf("the refusal names neither range nor station: %v", err)
	}
}

func TestFromCertificate(t *testing.T) {
	t.Parallel()
	odd, err := url.Parse("https://example.com/")
	if err != nil {
		t.Fatal(err)
	}
	peer := grant.PeerURI(identity.Development, "spp", "spp-1")
	for _, c := range []struct {
		name          string
		cert          *x509.Certificate
		station, prog bool
	}{
		{"station", &x509.Certificate{URIs: []*url.URL{sample().URI()}}, true, false},
		{"program", &x509.Certificate{URIs: []*url.URL{peer}}, false, true},
		{"none", nil, false, false},
		{"no URI", &x509.Certificate{}, false, false},
		{"two URIs", &x509.Certificate{URIs: []*url.URL{sample().URI(), peer}}, false, false},
		{"a CA's", &x509.Certificate{IsCA: true, URIs: []*url.URL{sample().URI()}}, false, false},
		{"foreign", &x509.Certificate{URIs: []*url.URL{odd}}, false, false},
		{"program called station", &x509.Certificate{URIs: []*url.URL{grant.PeerURI(identity.Development, "station", "x")}}, false, false},
	} {
		g, err := grant.FromCertificate(c.cert)
		if (err == nil) != c.station {
			t.Errorf("%s: FromCertificate gives %v", c.name, err)
		}
		if err == nil {
			if d := cmp.Diff(sample(), g); d != "" {
				t.Errorf("%s: another grant (-want +got):\n%s", c.name, d)
			}
		}
		p, err := grant.PeerFromCertificate(c.cert)
		if (err == nil) != c.prog {
			t.Errorf("%s: PeerFromCertificate gives %v, %v", c.name, p, err)
		}
	}
}

// TestRoundTrip: every valid grant survives its URI, also by way of a URL parser, as x509 has one.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?`)
	rapid.Check(t, func(t *rapid.T) {
		g := grant.Grant{
			Realm:   rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(t, "realm"),
			Station: name.Draw(t, "station"), Line: name.Draw(t, "line"),
			Quota: rapid.Int64Range(1, grant.MaxQuota).Draw(t, "quota"),
		}
		next := 0
		for range rapid.IntRange(0, 5).Draw(t, "ranges") {
			from := next + rapid.IntRange(0, 1000).Draw(t, "gap")
			to := from + rapid.IntRange(0, 1000).Draw(t, "width")
			g.TACs = append(g.TACs, grant.TACRange{From: identity.TAC(fmt.Sprintf("%08d", from)), To: identity.TAC(fmt.Sprintf("%08d", to))})
			next = to + 1
		}
		u, err := url.Parse(g.String())
		if err != nil {
			t.Fatal(err)
		}
		got, err := grant.FromCertificate(&x509.Certificate{URIs: []*url.URL{u}})
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(g, got); d != "" {
			t.Fatalf("another grant (-want +got):\n%s", d)
		}
	})
}

// FuzzParse: what is accepted has exactly one spelling and is valid; a grant is never also a peer.
func FuzzParse(f *testing.F) {
	f.Add(sampleURI)
	f.Add("devicekeys://development/spp/spp-1")
	f.Add("devicekeys://production/station/a?line=b&tac=any&quota=1")
	f.Add("devicekeys://production/station/a?line=b&tac=00000000-99999999,&quota=1")
	f.Add("devicekeys://development/spp/spp-1?")
	f.Fuzz(func(t *testing.T, s string) {
		g, err := grant.Parse(s)
		if err == nil && (g.String() != s || g.Validate() != nil) {
			t.Errorf("accepted %q as %+v", s, g)
		}
		p, perr := grant.ParsePeer(s)
		if perr == nil && (p.String() != s || p.Validate() != nil) {
			t.Errorf("accepted peer %q as %+v", s, p)
		}
		if err == nil && perr == nil {
			t.Errorf("%q is both a grant and a peer", s)
		}
	})
}
