// Package tokenconfig opens the PKCS#11 token of a program from its configuration and builds the TLS
// configurations whose private keys stay in that token. Every program with a token has the same section in its
// YAML file:
//
//	token:
//	  module: /usr/lib/softhsm/libsofthsm2.so
//	  token: dev-sequencer
//	  pin_file: pins/sequencer.pin
//	  lock_file: tokens/lock
//
// The realm comes from the program's configuration and decides what is accepted: in production nothing that is
// fit for development only (SoftHSM, labels that begin with "dev-", default PINs), and no guessing of the module.
//
// Which directory SoftHSM keeps its tokens in is SoftHSM's own setting, SOFTHSM2_CONF in the environment.
package tokenconfig

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

// Config names one token and how it is opened. Slot numbers are no part of it: they change.
type Config struct {
	Module   console.Path `yaml:"module" example:"/usr/lib/softhsm/libsofthsm2.so" help:"PKCS#11 module, a file. Left out in the development realm: SoftHSM's, where the distribution puts it."`
	Token    string       `yaml:"token" example:"dev-spp" help:"Label of the token; it begins with the realm's prefix. The label, the serial number, or both (then both must match)."`
	Serial   string       `yaml:"serial" example:"3f1c5a2e9b7d8046" help:"Serial number of the token."`
	PINFile  console.Path `yaml:"pin_file" required:"true" example:"pins/spp.pin" help:"File of mode 0400 with the user PIN, or \"fd:3\" for an open descriptor."`
	LockFile console.Path `yaml:"lock_file" example:"tokens/lock" help:"File locked while the module starts and logs in; programs that share a token directory name the same one. Left out: no lock."`
	Sessions int          `yaml:"sessions" default:"8" help:"PKCS#11 sessions kept open for this program's work, 1 to 256; a busy server needs one for each request in flight."`
	KDF2Host bool         `yaml:"kdf2_host" help:"Carry out KDF 2 through C_Sign in a token without SP 800-108: derived keys then pass through this program's memory. true or false (default)."`
}

// maxSessions is what a configuration may ask for: far above what helps, below what a network HSM refuses.
const maxSessions = 256

// Validate checks the values once the configuration is read (console.LoadConfig calls it).
func (c Config) Validate() error {
	switch {
	case c.Token == "" && c.Serial == "":
		return errors.New("neither token nor serial is given: name the token by its label (custodian show lists them), its serial number, or both")
	case len(c.Token) > 32:
		return fmt.Errorf("token %q has %d bytes: a label has at most 32", c.Token, len(c.Token))
	case len(c.Serial) > 16:
		return fmt.Errorf("serial %q has %d bytes: a serial number has at most 16", c.Serial, len(c.Serial))
	case c.Sessions < 1 || c.Sessions > maxSessions:
		return fmt.Errorf("sessions is %d: 1 to %d are allowed", c.Sessions, maxSessions)
	}
	return nil
}

// Ref names the token as package hsm does.
func (c Config) Ref() hsm.TokenRef { return hsm.TokenRef{Label: c.Token, Serial: c.Serial} }

// ModulePath gives the module's file: the configured one, or, in the development realm only, SoftHSM's.
func (c Config) ModulePath(realm identity.Realm) (string, error) {
	switch {
	case c.Module != "":
		return c.Module.String(), nil
	case realm == identity.Development:
		return softhsm.Module()
	}
	return "", console.Hint(errors.New("no PKCS#11 module is configured"), "set token.module to the file that the HSM's maker names")
}

// Open loads the module, logs in to the token and gives both; the caller closes the module last. withTLS opens the
// token for crypto11 too, which Token.Signer, ServerTLS and ClientTLS need. A process opens one token so: a second
// one comes from the module it gets here. Errors tell the next step.
func Open(ctx context.Context, realm identity.Realm, c Config, withTLS bool) (*hsm.Module, *hsm.Token, error) {
	if !realm.Valid() {
		return nil, nil, fmt.Errorf("open token: %s is not a realm", realm)
	}
	if err := c.Validate(); err != nil {
		return nil, nil, fmt.Errorf("open token: %w", err)
	}
	path, err := c.ModulePath(realm)
	if err != nil {
		return nil, nil, fmt.Errorf("open token: %w", err)
	}
	pin, err := secret.ReadFile(c.PINFile.String())
	if err != nil {
		return nil, nil, console.Hint(fmt.Errorf("open token: %w", err), "name the user PIN's file as pin_file; custodian token makes a token and its PIN file")
	}
	credentials := hsm.Credentials{Token: c.Ref(), PIN: pin}
	config := hsm.Config{Path: path, LockFile: c.LockFile.String(), Production: realm == identity.Production}
	if withTLS {
		config.SignToken = &credentials
	}
	if err := Sweep(realm, c.LockFile.String()); err != nil {
		return nil, nil, fmt.Errorf("open token: %w", err)
	}
	module, err := hsm.Load(ctx, config)
	if err != nil {
		return nil, nil, hint(realm, c, err)
	}
	token, err := module.Open(ctx, credentials, hsm.Options{Sessions: c.Sessions, KDF2Host: c.KDF2Host})
	if err != nil {
		return nil, nil, errors.Join(hint(realm, c, err), module.Close())
	}
	if err := checkRealm(realm, token.Info().Label); err != nil {
		return nil, nil, errors.Join(err, module.Close())
	}
	return module, token, nil
}

// Sweep removes what a kill in the middle of making a token has left in SoftHSM's directory: see [softhsm.Sweep], which
// wants it done before the module is loaded. In the production realm, which has no SoftHSM, it does nothing.
func Sweep(realm identity.Realm, lockFile string) error {
	if realm != identity.Development {
		return nil
	}
	_, err := softhsm.Sweep(lockFile)
	return err
}

// checkRealm refuses a token of the other realm by its label: a serial number alone could name one.
func checkRealm(realm identity.Realm, label string) error {
	if len(label) <= len(realm.Prefix()) || label[:len(realm.Prefix())] != realm.Prefix() {
		return console.Hint(fmt.Errorf("open token %q: labels of the %s realm begin with %q", label, realm, realm.Prefix()),
			"correct realm or token in the configuration; nothing made in one realm is used in the other")
	}
	return nil
}

// hint adds the step that most likely helps.
func hint(realm identity.Realm, c Config, err error) error {
	switch {
	case errors.Is(err, hsm.ErrNoToken) && realm == identity.Development:
		return console.Hint(err, "make the token with custodian setup (the SPP's) or custodian token (another program's), and check that SOFTHSM2_CONF names the directory it was made in")
	case errors.Is(err, hsm.ErrNoToken):
		return console.Hint(err, "check token and serial against what the HSM's own tool lists, and that the HSM is connected")
	case errors.Is(err, hsm.ErrDamaged) && realm == identity.Development && c.LockFile == "":
		return console.Hint(err, "name a lock_file: then what a kill left of a token that was being made is removed at the next start; a token that held keys comes back from a backup of the token directory")
	case errors.Is(err, hsm.ErrDamaged):
		return console.Hint(err, "restore the token directory from its backup, or remove the damaged token with the HSM's own tool")
	case errors.Is(err, hsm.ErrPIN):
		return console.Hint(err, "check that pin_file %q belongs to this token; nothing tries again, since a token may lock itself", c.PINFile)
	case errors.Is(err, hsm.ErrProduction):
		return console.Hint(err, "take a production HSM with a label and PIN of its own, or set realm: development")
	case errors.Is(err, hsm.ErrBusy):
		return console.Hint(err, "another program holds lock_file %q; try again", c.LockFile)
	}
	return err
}
