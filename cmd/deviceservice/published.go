package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/deviceservice"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
)

// published is the registry's list of certificates, as the service asks for it.
type published struct{ *registry.Client }

func (p published) Certificates(ctx context.Context, record identity.RecordID) (identity.Generation, [][]byte, error) {
	found, g, err := p.Client.Certificates(ctx, record)
	if errors.Is(err, registry.ErrNotFound) {
		return 0, nil, nil // it answers: it lists none
	}
	return g, found.X509, err
}

// maxCA bounds the file of device CAs, in bytes.
const maxCA = 256 << 10

// certificates gives the registry's list and the device CAs, for the way certificate; else nothing.
func (c Config) certificates() (deviceservice.Certificates, *devicecert.Roots, error) {
	if !c.uses(deviceservice.Certificate) {
		return nil, nil, nil
	}
	client, err := registry.NewClient(c.Registry, nil, registry.ClientOptions{Realm: c.Realm})
	if err != nil {
		return nil, nil, console.Usagef("%w", err)
	}
	f, err := os.Open(c.TLS.DeviceCA.String())
	if err != nil {
		return nil, nil, fmt.Errorf("read the device CA: %w", err)
	}
	defer f.Close() // opened for reading: nothing to lose
	text, err := io.ReadAll(io.LimitReader(f, maxCA))
	if err != nil {
		return nil, nil, fmt.Errorf("read the device CA: %w", err)
	}
	roots, err := devicecert.ParseRoots(c.Realm, text)
	if err != nil {
		return nil, nil, console.Hint(fmt.Errorf("device CA %q: %w", c.TLS.DeviceCA, err), "name the device-ca.pem that custodian setup published")
	}
	return deviceservice.NewCertificateCache(published{client}), roots, nil
}
