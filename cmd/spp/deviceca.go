package main

import (
	"fmt"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/statement"
)

// deviceCA gives the device CA of the token, or nil where no profile has certificates. The token is open for signatures.
func (c Config) deviceCA(tok *hsm.Token, profiles ...profile.Profile) (provisioning.Certifier, error) {
	for _, p := range profiles {
		if !p.Certifies() {
			continue
		}
		if c.DeviceCA == "" {
			return nil, noDeviceCA(p)
		}
		cert, err := tokenconfig.Certificate(c.DeviceCA.String())
		if err != nil {
			return nil, fmt.Errorf("device CA: %w", err)
		}
		signer, err := tok.Signer(maker.DeviceCALabel(c.Realm))
		if err != nil {
			return nil, fmt.Errorf("device CA: %w", err)
		}
		ca, err := devicecert.New(cert, signer)
		if err == nil && ca.Realm() != c.Realm {
			err = fmt.Errorf("certificate %q is of the %s realm, the configuration says %s", c.DeviceCA, ca.Realm(), c.Realm)
		}
		if err != nil {
			return nil, console.Hint(fmt.Errorf("device CA: %w", err), "name the device-ca.pem that custodian setup published with these keys")
		}
		return ca, nil
	}
	return nil, nil
}

func noDeviceCA(p profile.Profile) error {
	return console.Usagef("product line %q has certificates and the configuration names no device CA: write device_ca: with the device-ca.pem that custodian setup published", p.Name)
}

// serviceKey reads the device service's transport key, zero where none is named.
func (c Config) serviceKey() (key statement.PublicKey, err error) {
	if c.ServiceKey == "" {
		return key, nil
	}
	text, err := os.ReadFile(c.ServiceKey.String())
	if err == nil {
		key, err = statement.ParsePEM(text)
	}
	if err != nil {
		return key, console.Hint(fmt.Errorf("device service's transport key %q: %w", c.ServiceKey, err), "custodian token --for deviceservice --transport-key writes it")
	}
	return key, nil
}
