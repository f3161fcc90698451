package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/chipidfile"
	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/statement"
)

// source is where the device's certificate comes from: the registry or a file.
type source struct {
	Registry    string       `placeholder:"URL" help:"Address of the registry or of a mirror, to look the device up."`
	ChipIDFile  console.Path `name:"chip-id-file" placeholder:"FILE" help:"With --registry: file of mode 0400 with the chip ID in hexadecimal, or \"fd:3\". It opens the device's record and is sent nowhere."`
	Record      string       `placeholder:"ID" help:"With --registry: the device's record id, where its product line publishes certificates."`
	Identity    string       `placeholder:"IDENTITY" help:"With --registry: the device's identity, an IMEI or a URN, where its product line stands in the directory."`
	ROMKey      console.Path `name:"rom-key" placeholder:"FILE" help:"With --registry: the key in the device's ROM, PEM, which vouches for the record."`
	Certificate console.Path `placeholder:"FILE" help:"Instead of --registry: the device's certificate, PEM or DER. Whether the device is still in use isn't known then."`
}

// Validate is kong's: one source, and whole.
func (s source) Validate() error {
	switch {
	case (s.Registry == "") == (s.Certificate == ""):
		return errors.New("give --registry or --certificate, one of the two")
	case s.Registry == "" && (s.ChipIDFile != "" || s.ROMKey != "" || s.Record != "" || s.Identity != ""):
		return errors.New("--chip-id-file, --rom-key, --record and --identity belong to --registry")
	case s.Registry == "":
		return nil
	}
	named := 0
	for _, n := range []string{s.ChipIDFile.String(), s.Record, s.Identity} {
		if n != "" {
			named++
		}
	}
	switch {
	case named != 1:
		return errors.New("--registry needs --record, --identity or --chip-id-file, one of the three")
	case (s.ChipIDFile == "") != (s.ROMKey == ""):
		return errors.New("--chip-id-file and --rom-key are given together")
	}
	return nil
}

// recipient gives the device's certificate for key agreement, checked, and the
// device's record id, nil where nothing tells it.
func (s source) recipient(ctx context.Context, realm identity.Realm, roots *devicecert.Roots) (devicecert.Certificate, *identity.RecordID, error) {
	switch {
	case s.ChipIDFile != "":
		return s.fromRegistry(ctx, realm, roots)
	case s.Registry != "":
		return s.published(ctx, realm, roots)
	}
	der, err := readCertificate(s.Certificate.String())
	if err != nil {
		return devicecert.Certificate{}, nil, err
	}
	c, err := devicecert.Check(der, roots, devicecert.Want{At: time.Now()})
	if err != nil {
		return devicecert.Certificate{}, nil, hinted(fmt.Errorf("%q: %w", s.Certificate, err))
	}
	return c, c.Record, nil
}

// fromRegistry opens the device's newest record. Who knows the chip ID and has a
// mirror can seal any certificate into it, of his own device above all; so the ROM
// key is asked: it signed the identity certificate, that vouches for the manifest,
// and the manifest names the device's keys.
func (s source) fromRegistry(ctx context.Context, realm identity.Realm, roots *devicecert.Roots) (none devicecert.Certificate, _ *identity.RecordID, _ error) {
	chip, err := chipidfile.Read(s.ChipIDFile.String())
	if err != nil {
		return none, nil, err
	}
	text, err := readFile(s.ROMKey.String(), maxFile)
	if err != nil {
		return none, nil, fmt.Errorf("read ROM key: %w", err)
	}
	rom, err := statement.ParsePEM(text)
	if err != nil {
		return none, nil, fmt.Errorf("read ROM key %q: %w", s.ROMKey, err)
	}
	client, err := registry.NewClient(s.Registry, nil, registry.ClientOptions{Realm: realm})
	if err != nil {
		return none, nil, console.Usagef("%w", err)
	}
	r, vouched, err := client.Lookup(ctx, chip, rom)
	if errors.Is(err, statement.ErrForm) || errors.Is(err, statement.ErrSignature) {
		return none, nil, console.Hint(err, "check that --rom-key is the key in this device's ROM; if it is, ask another mirror")
	}
	if err != nil {
		return none, nil, err
	}
	id := chip.RecordID()
	m, err := manifestOf(r, vouched)
	if err != nil {
		return none, nil, console.Hint(fmt.Errorf("record %s: %w", id.Short(), err), "ask another mirror: the maker did not publish this")
	}
	c, err := choose(r.X509, roots, id, func(c devicecert.Certificate) error { return c.Of(m) })
	return c, &id, err
}

// manifestOf gives the manifest in a record's backup, if it is the one that the
// identity certificate vouches for.
func manifestOf(r registry.Record, vouched identity.Certificate) (keypackage.Manifest, error) {
	b, err := keypackage.ParseBackup(r.Backup)
	if err != nil {
		return keypackage.Manifest{}, err
	}
	m, err := keypackage.ParseManifest(b.Manifest)
	if err != nil {
		return keypackage.Manifest{}, err
	}
	return m, m.Match(b.Manifest, vouched)
}

// published takes what the device's product line publishes for everyone. Only the
// device CA vouches for it, so a certificate must name what was asked for: the
// identity, or the record. One that was made in advance names no record; then the
// registry's word is all there is for whose it is, and the device that can open the message
// is the one with that key. An identity that the registry says and one that a
// certificate says are the same, or one of the two is another device's.
func (s source) published(ctx context.Context, realm identity.Realm, roots *devicecert.Roots) (none devicecert.Certificate, _ *identity.RecordID, _ error) {
	client, err := registry.NewClient(s.Registry, nil, registry.ClientOptions{Realm: realm})
	if err != nil {
		return none, nil, console.Usagef("%w", err)
	}
	var (
		record identity.RecordID
		p      registry.PublicCertificates
		whose  identity.Identity
	)
	if s.Record != "" {
		if record, err = identity.ParseRecordID(s.Record); err != nil {
			return none, nil, console.Usagef("%w", err)
		}
		p, _, err = client.Certificates(ctx, record)
	} else {
		if whose, err = identity.ParseText(s.Identity); err != nil {
			return none, nil, console.Usagef("%w", err)
		}
		p, record, err = client.Directory(ctx, whose)
	}
	if errors.Is(err, registry.ErrNotFound) {
		return none, nil, console.Hint(err, "ask the maker whether the product line publishes certificates; who has the device's chip ID gives --chip-id-file and --rom-key")
	}
	if err != nil {
		return none, nil, err
	}
	c, err := choose(p.X509, roots, record, func(c devicecert.Certificate) error {
		if c.Identity != nil && p.Identity != "" && c.Identity.URN() != p.Identity {
			return fmt.Errorf("it names %s, and the registry %.64q", c.Identity, p.Identity)
		}
		return nil
	})
	if err == nil && whose != nil && (c.Identity == nil || c.Identity.URN() != whose.URN()) {
		err = console.Hint(fmt.Errorf("the certificate of record %s does not say that it is %s's", record.Short(), whose),
			"only the registry says so: if that is enough, write with --record %s", record)
	}
	return c, &record, err
}

// choose takes the one certificate for key agreement among those of a record, all
// of which must be the device CA's and the device's, as own says.
func choose(all [][]byte, roots *devicecert.Roots, record identity.RecordID, own func(devicecert.Certificate) error) (devicecert.Certificate, error) {
	var found []devicecert.Certificate
	for i, der := range all {
		if x, err := x509.ParseCertificate(der); err == nil && x.IsCA {
			continue // a chain may stand beside what it is for; only --ca is trusted
		}
		c, err := devicecert.Check(der, roots, devicecert.Want{At: time.Now()})
		if err != nil {
			return devicecert.Certificate{}, hinted(fmt.Errorf("record %s, X.509 certificate %d of %d: %w", record.Short(), i+1, len(all), err))
		}
		if c.Record != nil && *c.Record != record {
			return devicecert.Certificate{}, fmt.Errorf("record %s, X.509 certificate %d of %d: it is of record %s", record.Short(), i+1, len(all), c.Record.Short())
		}
		if err := own(c); err != nil {
			return devicecert.Certificate{}, console.Hint(fmt.Errorf("record %s, X.509 certificate %d of %d: %w", record.Short(), i+1, len(all), err),
				"ask another mirror, and tell the maker: somebody put another device's certificate there")
		}
		if c.Use == keypackage.UseAgreement {
			found = append(found, c)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return devicecert.Certificate{}, console.Hint(
			fmt.Errorf("record %s has %d X.509 certificates and none of a key for key agreement: nothing can be encrypted to this device", record.Short(), len(all)),
			"ask the maker whether the product line has such a key (algorithm ecdh-p256, certificate: true)")
	}
	var keys []string
	for _, c := range found {
		keys = append(keys, message.KeyIDOf(c.Public).String())
	}
	return devicecert.Certificate{}, console.Hint(fmt.Errorf("record %s has %d keys for key agreement: %s", record.Short(), len(found), strings.Join(keys, ", ")),
		"take the right one out (registry certificates, or registry get with the chip ID) and name it with --certificate")
}

// hinted adds the next step to an error of devicecert.
func hinted(err error) error {
	switch {
	case errors.Is(err, devicecert.ErrIssuer):
		return console.Hint(err, "check that --ca names the maker's device CAs, the one that was in use when the device was made among them")
	case errors.Is(err, devicecert.ErrForm):
		return console.Hint(err, "check --realm, and that this is a device's certificate")
	}
	return err
}

// readCertificate reads one certificate, PEM or DER.
func readCertificate(path string) ([]byte, error) {
	text, err := readFile(path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	if block, _ := pem.Decode(text); block == nil {
		return text, nil // devicecert.Check reads DER and nothing else
	}
	found, err := devicecert.ParsePEM(text)
	if err == nil && len(found) != 1 {
		err = fmt.Errorf("%d certificates: one PEM block CERTIFICATE is expected", len(found))
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate %q: %w", path, err)
	}
	return found[0].Raw, nil
}
