package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"regexp"
	"strings"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

type poolWrapKeysCmd struct {
	console.Output
	File  string        `arg:"" type:"existingfile" help:"Keys and secrets in clear, readable by you alone, one a line: IDENTITY,ENTRY,FORM,VALUE; FORM is symmetric (32 bytes), pair (PKCS #8) or secret, VALUE in base64."`
	Realm string        `required:"" enum:"development,production" placeholder:"REALM" help:"The realm that they are for, development or production."`
	Type  identity.Type `default:"imei" placeholder:"TYPE" help:"What kind the identities are: imei, eui48, eui64 or serial (default imei)."`
	To    console.Path  `required:"" placeholder:"FILE" help:"The maker's transport key, PEM (custodian transport show). Compare its key id with him: who wraps to another key gives the keys to another."`
	Out   console.Path  `required:"" placeholder:"FILE" help:"Write the file for the maker to this one, which must not exist."`
}

func (*poolWrapKeysCmd) Help() string {
	return `For whoever sends keys or secrets to the maker and has them in clear: each is encrypted to the maker's HSM, bound to its identity and entry, and nobody else opens it, you neither. It needs no configuration, no HSM and no database. Sign what it writes: spp pool sign-keys.`
}

func (*poolWrapKeysCmd) Examples() string {
	return `
$ cat clear.csv
# the profile's entry "licence" has algorithm none
020000000001,licence,secret,TElDRU5DRSFMSUNFTkNFIUxJQ0VOQ0Uh
$ spp pool wrap-keys --realm production --type eui48 --to spp-transport.pem --out keys.csv clear.csv
$ spp pool sign-keys --realm production --line tv --key key.pem --out keys.csv.sig keys.csv`
}

// keysWrapped is what pool wrap-keys says; its field names are part of the interface.
type keysWrapped struct {
	To      string `json:"to"` // key id
	Keys    int    `json:"keys"`
	Secrets int    `json:"secrets"`
	Out     string `json:"out"`
}

// entryPattern is what the pool's table takes as the name of an entry.
var entryPattern = regexp.MustCompile(`^[0-9a-z-]{1,32}$`)

// maxClearLine bounds a line of the file, in bytes: the longest secret in base64.
const maxClearLine = 8192

func (c *poolWrapKeysCmd) Run(_ context.Context, out console.IO) error {
	realm, err := identity.ParseRealm(c.Realm)
	if err != nil {
		return console.Usagef("%w", err)
	}
	text, err := readSmall(c.To.String())
	if err != nil {
		return err
	}
	to, err := statement.ParsePEM(text)
	if err != nil {
		return console.Hint(fmt.Errorf("transport key %q: %w", c.To, err), "give the file that custodian transport show wrote")
	}
	result := keysWrapped{To: to.ID().String(), Out: c.Out.String()}
	wrapped, err := c.wrap(realm, to, &result)
	if err != nil {
		return err
	}
	if err := writeNew(c.Out.String(), wrapped); err != nil {
		return err
	}
	return c.Print(out.Out, result)
}

// wrap wraps the whole file, or refuses it with the line that is wrong.
func (c *poolWrapKeysCmd) wrap(realm identity.Realm, to statement.PublicKey, result *keysWrapped) ([]byte, error) {
	f, err := os.Open(c.File)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		return nil, refusal(fmt.Errorf("%q has mode %04o, and holds keys in clear", c.File, mode), "keys", "let nobody else read it: chmod 0600; and take those keys for known that others could read")
	}
	var wrapped bytes.Buffer
	scan := bufio.NewScanner(f)
	buffer := make([]byte, maxClearLine)
	defer clear(buffer)
	scan.Buffer(buffer, maxClearLine)
	for n := 1; scan.Scan(); n++ {
		text := bytes.TrimSpace(scan.Bytes())
		if len(text) == 0 || text[0] == '#' {
			continue
		}
		l, err := parseClearLine(text, c.Type)
		if err == nil && result.Keys+result.Secrets == maxKeyLines {
			err = fmt.Errorf("more than %d keys: split the file", maxKeyLines)
		}
		var line string
		if err == nil {
			line, err = l.wrap(realm, to)
		}
		clear(l.value)
		if err != nil {
			return nil, refusal(fmt.Errorf("%q, line %d: %w", c.File, n, err), "keys", "correct the line: nothing was written")
		}
		wrapped.WriteString(line)
		if l.form == formSecret {
			result.Secrets++
		} else {
			result.Keys++
		}
	}
	if err := scan.Err(); err != nil {
		return nil, refusal(fmt.Errorf("%q: %w", c.File, err), "keys", "look whether it is the right file")
	}
	if wrapped.Len() == 0 {
		return nil, refusal(fmt.Errorf("%q holds no key", c.File), "keys", "look whether it is the right file")
	}
	return wrapped.Bytes(), nil
}

// The forms of what a file holds in clear.
const (
	formSymmetric = "symmetric"
	formPair      = "pair"
	formSecret    = "secret"
)

// clearLine is one line of a file in clear.
type clearLine struct {
	id    identity.Identity
	entry string
	form  string
	value []byte // in clear: whoever has it clears it
	point []byte // of a pair
}

// parseClearLine reads a line. No error repeats a byte of its value; beside an error there
// is none.
func parseClearLine(text []byte, kind identity.Type) (clearLine, error) {
	fields := bytes.Split(text, []byte{','})
	if len(fields) != 4 {
		return clearLine{}, fmt.Errorf("%d fields: identity, entry, form and value are expected", len(fields))
	}
	id, err := identity.Parse(kind, string(bytes.TrimSpace(fields[0])))
	if err != nil {
		return clearLine{}, err
	}
	l := clearLine{id: id, entry: string(bytes.TrimSpace(fields[1])), form: string(bytes.TrimSpace(fields[2]))}
	if !entryPattern.MatchString(l.entry) {
		return clearLine{}, fmt.Errorf("entry %q: a profile's entries have 1 to 32 lower-case letters, digits or '-'", l.entry)
	}
	encoded := bytes.TrimSpace(fields[3])
	l.value = make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	n, err := base64.StdEncoding.Decode(l.value, encoded)
	l.value = l.value[:n]
	if err != nil {
		clear(l.value)
		return clearLine{}, fmt.Errorf("value: not base64")
	}
	if err := l.check(); err != nil {
		clear(l.value)
		return clearLine{}, err
	}
	return l, nil
}

func (l *clearLine) check() error {
	switch l.form {
	case formSymmetric:
		if len(l.value) != keypackage.SymmetricSize {
			return fmt.Errorf("value: a symmetric key has %d bytes, this one %d", keypackage.SymmetricSize, len(l.value))
		}
	case formPair:
		// A parser's error may show what it met.
		key, err := x509.ParsePKCS8PrivateKey(l.value)
		private, ok := key.(*ecdsa.PrivateKey)
		if err != nil || !ok || private.Curve != elliptic.P256() {
			return fmt.Errorf("value: no P-256 private key in PKCS #8, DER: openssl pkcs8 -topk8 -nocrypt -outform DER")
		}
		if l.point, err = private.PublicKey.Bytes(); err != nil {
			return fmt.Errorf("value: %w", err)
		}
	case formSecret:
		if len(l.value) == 0 || len(l.value) > keypackage.MaxSecret {
			return fmt.Errorf("value: a secret has 1 to %d bytes, this one %d", keypackage.MaxSecret, len(l.value))
		}
	default:
		return fmt.Errorf("form %q: write %s, %s or %s", l.form, formSymmetric, formPair, formSecret)
	}
	return nil
}

// wrap gives the line for the maker.
func (l clearLine) wrap(realm identity.Realm, to statement.PublicKey) (string, error) {
	var blob []byte
	var err error
	if l.form == formSecret {
		blob, err = transport.SealSoftware(realm, to, keypackage.DeviceSecretLabel(l.id, l.entry), l.value)
	} else {
		blob, err = transport.WrapSoftware(realm, to, keypackage.DeviceKeyLabel(l.id, l.entry), l.value)
	}
	if err != nil {
		return "", err
	}
	fields := []string{l.id.Value(), l.entry, base64.StdEncoding.EncodeToString(l.point), base64.StdEncoding.EncodeToString(blob)}
	return strings.Join(fields, ",") + "\n", nil
}
