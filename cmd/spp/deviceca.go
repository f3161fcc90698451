package main

import (
	"crypto/ecdsa"
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

// deviceCA gives the device CA that signs from now on, and its key's label for the audit log; nil where no profile has
// certificates. Which version it is, the configured certificate says by its public key: the token has the keys of all.
// The token is open for signatures.
func (c Config) deviceCA(tok *hsm.Token, keys *maker.Keys, profiles ...profile.Profile) (ca provisioning.Certifier, label string, err error) {
	for _, p := range profiles {
		if !p.Certifies() {
			continue
		}
		if c.DeviceCA == "" {
			return nil, "", noDeviceCA(p)
		}
		authority, label, err := c.authority(tok, keys)
		if err != nil {
			return nil, "", console.Hint(fmt.Errorf("device CA %q: %w", c.DeviceCA, err), "name the certificate that custodian published for a key of this token: device-ca.pem (setup), or that of a later version (device-ca)")
		}
		return authority, label, nil
	}
	return nil, "", nil
}

func (c Config) authority(tok *hsm.Token, keys *maker.Keys) (*devicecert.Authority, string, error) {
	cert, err := tokenconfig.Certificate(c.DeviceCA.String())
	if err != nil {
		return nil, "", err
	}
	key, ok := cert.PublicKey.(*ecdsa.PublicKey)
	if !ok {
		return nil, "", fmt.Errorf("its key is a %T, an EC P-256 key is expected", cert.PublicKey)
	}
	public, err := statement.FromECDSA(key)
	if err != nil {
		return nil, "", err
	}
	version, err := keys.DeviceCA(public)
	if err != nil {
		return nil, "", err
	}
	label := maker.DeviceCALabel(c.Realm, version)
	signer, err := tok.Signer(label)
	if err != nil {
		return nil, "", err
	}
	ca, err := devicecert.New(cert, signer)
	if err == nil && ca.Realm() != c.Realm {
		err = fmt.Errorf("it is of the %s realm, the configuration says %s", ca.Realm(), c.Realm)
	}
	return ca, label, err
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
