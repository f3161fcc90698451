// Package grant says what a certificate of the station CA allows its holder, and reads it back from the
// certificate, strictly.
//
// It stands in the certificate's one subject alternative name of type URI:
//
//	devicekeys://development/station/line-1?line=phone&tac=00440200-00440299&quota=100000
//	devicekeys://development/spp/spp-1
//
// The first is a [Grant]: the station "line-1" may build devices of product line "phone" with IMEIs of these type
// allocation codes, 100,000 of them while the certificate is valid. The second is a [Peer], a program: it says who
// is there and grants nothing by itself.
//
// The text is signed by the CA and so the station cannot change it; the custodian who signs sees it in full. Each
// has one spelling: what Parse accepts, URI gives back byte for byte. Reading a grant checks no signature, time or
// chain: TLS has done that, or Verify.
package grant

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/devicekeys/devicekeys/identity"
)

const (
	scheme  = "devicekeys"
	station = "station"

	// MaxURI bounds the text, in bytes: it fits MaxTACs ranges with the longest names.
	MaxURI = 1024
	// MaxTACs is the most ranges of one grant. A line that builds more models than this has several stations.
	MaxTACs = 32
	// MaxQuota is more devices than any identity space of one station has; a larger number is a slip of the pen.
	MaxQuota = 1_000_000_000_000

	maxName = 63 // of a station, a line, a role or a program: a DNS label's length
	anyTAC  = "any"
)

// Grant is what a station may do.
type Grant struct {
	Realm   identity.Realm
	Station string     // the station's name, "line-1": it stands in records, logs and quotas
	Line    string     // the product line, "phone"
	TACs    []TACRange // IMEIs it may be given, ascending, without overlap; empty: any identity of the product line
	Quota   int64      // devices it may begin while the certificate is valid, 1 to MaxQuota
}

// TACRange is a range of type allocation codes, both ends included.
type TACRange struct{ From, To identity.TAC }

// String gives "00440200-00440299".
func (r TACRange) String() string { return string(r.From) + "-" + string(r.To) }

// Contains reports whether the code is in the range.
func (r TACRange) Contains(t identity.TAC) bool { return r.From <= t && t <= r.To }

// ParseTACRange reads "00440200-00440299", or "00440200" for one code.
func ParseTACRange(s string) (TACRange, error) {
	from, to, both := strings.Cut(s, "-")
	if !both {
		to = from
	}
	var r TACRange
	var err error
	if r.From, err = identity.ParseTAC(from); err != nil {
		return TACRange{}, fmt.Errorf("TAC range %q: %w", s, err)
	}
	if r.To, err = identity.ParseTAC(to); err != nil {
		return TACRange{}, fmt.Errorf("TAC range %q: %w", s, err)
	}
	return r, r.check()
}

func (r TACRange) check() error {
	for _, t := range []identity.TAC{r.From, r.To} {
		if _, err := identity.ParseTAC(string(t)); err != nil {
			return err
		}
	}
	if r.From > r.To {
		return fmt.Errorf("TAC range %q ends before it begins: exchange its ends", r)
	}
	return nil
}

// Validate checks everything that URI relies on.
func (g Grant) Validate() error {
	if !g.Realm.Valid() {
		return fmt.Errorf("grant: %s is not a realm", g.Realm)
	}
	if err := checkName("station", g.Station); err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	if err := checkName("product line", g.Line); err != nil {
		return fmt.Errorf("grant: %w", err)
	}
	if len(g.TACs) > MaxTACs {
		return fmt.Errorf("grant: %d TAC ranges: at most %d are allowed", len(g.TACs), MaxTACs)
	}
	for i, r := range g.TACs {
		if err := r.check(); err != nil {
			return fmt.Errorf("grant: %w", err)
		}
		if i > 0 && r.From <= g.TACs[i-1].To {
			return fmt.Errorf("grant: TAC range %q does not lie above %q: give ranges in ascending order, without overlap", r, g.TACs[i-1])
		}
	}
	if g.Quota < 1 || g.Quota > MaxQuota {
		return fmt.Errorf("grant: quota of %d devices: 1 to %d are allowed", g.Quota, int64(MaxQuota))
	}
	return nil
}

// URI gives the grant as it stands in a certificate. Validate comes first; an invalid grant gives a URI that
// Parse refuses.
func (g Grant) URI() *url.URL {
	tacs := anyTAC
	if len(g.TACs) > 0 {
		var all []string
		for _, r := range g.TACs {
			all = append(all, r.String())
		}
		tacs = strings.Join(all, ",")
	}
	return &url.URL{
		Scheme: scheme, Host: g.Realm.String(), Path: "/" + station + "/" + g.Station,
		RawQuery: "line=" + g.Line + "&tac=" + tacs + "&quota=" + strconv.FormatInt(g.Quota, 10),
	}
}

// String gives the URI's text.
func (g Grant) String() string { return g.URI().String() }

// Parse reads the one spelling of a grant.
func Parse(s string) (Grant, error) {
	g, err := parse(s)
	if err != nil {
		return Grant{}, fmt.Errorf("read grant %.64q: %w", s, err)
	}
	return g, nil
}

func parse(s string) (Grant, error) {
	realm, role, name, query, err := split(s)
	if err != nil {
		return Grant{}, err
	}
	if role != station {
		return Grant{}, fmt.Errorf("it is for a program (%q), not for a station: ask the custodian for a station's certificate", role)
	}
	g := Grant{Realm: realm, Station: name}
	rest, ok := strings.CutPrefix(query, "line=")
	line, rest, ok1 := strings.Cut(rest, "&tac=")
	tacs, quota, ok2 := strings.Cut(rest, "&quota=")
	if !ok || !ok1 || !ok2 {
		return Grant{}, errors.New("line, tac and quota are expected, in this order")
	}
	g.Line = line
	if tacs != anyTAC {
		for t := range strings.SplitSeq(tacs, ",") {
			if len(g.TACs) == MaxTACs {
				return Grant{}, fmt.Errorf("more than %d TAC ranges", MaxTACs)
			}
			r, err := ParseTACRange(t)
			if err != nil {
				return Grant{}, err
			}
			g.TACs = append(g.TACs, r)
		}
	}
	if g.Quota, err = strconv.ParseInt(quota, 10, 64); err != nil {
		return Grant{}, fmt.Errorf("quota %q is not a number", quota)
	}
	if err := g.Validate(); err != nil {
		return Grant{}, err
	}
	if again := g.String(); again != s {
		return Grant{}, fmt.Errorf("it is not in canonical form: %q is", again)
	}
	return g, nil
}

// FromCertificate reads the grant of a station's certificate, which TLS has verified. It has one name of type URI,
// and it isn't a CA's. Errors say what the station's operator should ask for.
func FromCertificate(c *x509.Certificate) (Grant, error) {
	u, err := uriOf(c)
	if err != nil {
		return Grant{}, fmt.Errorf("read station's certificate: %w", err)
	}
	return Parse(u)
}

// Allows tells whether the station may be given the identity.
func (g Grant) Allows(id identity.Identity) error {
	if id == nil || id.Value() == "" {
		return fmt.Errorf("station %q: there is no identity to allow", g.Station)
	}
	if len(g.TACs) == 0 {
		return nil
	}
	imei, ok := id.(identity.IMEI)
	if !ok {
		return fmt.Errorf("station %q builds devices with IMEIs of TAC %s, %s %q is not one: use a station certified for it", g.Station, g.tacs(), id.Type(), id)
	}
	if !slices.ContainsFunc(g.TACs, func(r TACRange) bool { return r.Contains(imei.TAC()) }) {
		return fmt.Errorf("IMEI %q has TAC %s, outside the range of station %q (%s): use another station, or have its certificate renewed with this range", id, imei.TAC(), g.Station, g.tacs())
	}
	return nil
}

func (g Grant) tacs() string {
	var all []string
	for _, r := range g.TACs {
		all = append(all, r.String())
	}
	return strings.Join(all, ", ")
}
