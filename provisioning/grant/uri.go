package grant

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/identity"
)

// split reads what grants and peers have in common: scheme, realm, role and name; the query is what follows '?'.
// It works on the text itself: a URL parser unescapes and would give two spellings one meaning.
func split(s string) (realm identity.Realm, role, name, query string, err error) {
	if len(s) > MaxURI {
		return 0, "", "", "", fmt.Errorf("%d bytes, at most %d are read", len(s), MaxURI)
	}
	rest, ok := strings.CutPrefix(s, scheme+"://")
	if !ok {
		return 0, "", "", "", fmt.Errorf("it does not begin with %q", scheme+"://")
	}
	rest, query, _ = strings.Cut(rest, "?")
	parts := strings.Split(rest, "/")
	if len(parts) != 3 {
		return 0, "", "", "", errors.New("realm, role and name are expected, with \"/\" between")
	}
	if realm, err = identity.ParseRealm(parts[0]); err != nil {
		return 0, "", "", "", err
	}
	if err := checkName("role", parts[1]); err != nil {
		return 0, "", "", "", err
	}
	if err := checkName("name", parts[2]); err != nil {
		return 0, "", "", "", err
	}
	return realm, parts[1], parts[2], query, nil
}

// checkName allows lower-case letters, digits and inner hyphens: what needs no escape in a URI, a log or SQL.
func checkName(what, n string) error {
	if n == "" || len(n) > maxName {
		return fmt.Errorf("%s %q has %d characters: 1 to %d are allowed", what, n, len(n), maxName)
	}
	for i, c := range []byte(n) {
		letter := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !letter && (c != '-' || i == 0 || i == len(n)-1) {
			return fmt.Errorf("%s %q: only lower-case letters, digits and hyphens between them are allowed", what, n)
		}
	}
	return nil
}

// uriOf gives the certificate's one URI.
func uriOf(c *x509.Certificate) (string, error) {
	switch {
	case c == nil:
		return "", errors.New("there is none")
	case c.IsCA:
		return "", errors.New("it is a CA's")
	case len(c.URIs) != 1:
		return "", fmt.Errorf("it has %d names of type URI, one is expected: it was not made by custodian certify", len(c.URIs))
	}
	return c.URIs[0].String(), nil
}
