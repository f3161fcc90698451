package devicecert_test

import (
	"encoding/pem"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/untested"
)

// openssl runs the program, which CI must have, and gives what it printed.
func openssl(t *testing.T, dir string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath("openssl")
	if err != nil {
		untested.Skip(t, "certificates by openssl: it is not installed")
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("openssl %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestOpenSSL: another implementation verifies the chain, for the right purpose, and reads what the profile says.
func TestOpenSSL(t *testing.T) {
	t.Parallel()
	c, dir := newCA(t, dev, "ca"), t.TempDir()
	write := func(name string, der []byte) {
		must(t, os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600))
	}
	write("ca.pem", c.cert.Raw)
	write("other.pem", newCA(t, dev, "another").cert.Raw)
	sign, agree := request(t, keypackage.UseSignature), request(t, keypackage.UseAgreement)
	sign.Identity, agree.Record = imei(t, "00440245000001"), nil
	write("sign.pem", c.certify(t, sign))
	write("agree.pem", c.certify(t, agree))
	for _, purpose := range []string{"sslclient", "sslserver"} {
		if out := openssl(t, dir, "verify", "-x509_strict", "-purpose", purpose, "-CAfile", "ca.pem", "sign.pem"); !strings.Contains(out, "sign.pem: OK") {
			t.Error(out)
		}
	}
	// Among several CAs of one name the right one is found by its key.
	must(t, os.WriteFile(filepath.Join(dir, "both.pem"), []byte(read(t, dir, "other.pem")+read(t, dir, "ca.pem")), 0o600))
	openssl(t, dir, "verify", "-x509_strict", "-CAfile", "both.pem", "sign.pem", "agree.pem")

	for file, want := range map[string][]string{
		"sign.pem": {
			"Issuer: O = Example Devices, CN = development device CA", "Not After : Dec 31 23:59:59 9999 GMT",
			"Subject: O = Devicekeys development, OU = phone-a, CN = device record, serialNumber = " + record(0xab).String(),
			"ASN1 OID: prime256v1", "X509v3 Key Usage: critical\n                Digital Signature\n",
			"TLS Web Client Authentication, TLS Web Server Authentication", "X509v3 Basic Constraints: critical\n                CA:FALSE",
			"URI:urn:gsma:imei:00440245-000001-0", "Signature Algorithm: ecdsa-with-SHA256",
		},
		"agree.pem": {"CN = device key", "X509v3 Key Usage: critical\n                Key Agreement\n", "X509v3 Authority Key Identifier"},
	} {
		out := openssl(t, dir, "x509", "-in", file, "-noout", "-text")
		for _, w := range want {
			if !strings.Contains(out, w) {
				t.Errorf("%s: %q is not in\n%s", file, w, out)
			}
		}
	}
	// The hardware module, which x509 -text of some versions does not print.
	out := openssl(t, dir, "asn1parse", "-in", "sign.pem")
	if !strings.Contains(out, "X509v3 Subject Alternative Name") {
		t.Error(out)
	}
	var at string
	for line := range strings.Lines(out) {
		if strings.Contains(at, "Subject Alternative Name") && strings.Contains(line, "OCTET STRING") {
			offset, _, _ := strings.Cut(strings.TrimSpace(line), ":")
			parsed := openssl(t, dir, "asn1parse", "-in", "sign.pem", "-strparse", offset)
			for _, w := range []string{"1.3.6.1.5.5.7.8.4", "1.3.6.1.4.1.32473.4.1.1", strings.ToUpper(record(0xab).String())} {
				if !strings.Contains(parsed, w) && !(w == "1.3.6.1.5.5.7.8.4" && strings.Contains(parsed, "Hardware Module Name")) {
					t.Errorf("%q is not in\n%s", w, parsed)
				}
			}
			return
		}
		at = line
	}
	t.Errorf("no subjectAltName found in\n%s", out)
}

func read(t *testing.T, dir, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	must(t, err)
	return string(b)
}
