package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

type deviceCACmd struct {
	console.ConfigFile
	console.Output

	Version uint32 `arg:"" name:"version" help:"Which version, from 2 on; setup makes version 1. Each follows the one before."`
}

func (*deviceCACmd) Help() string {
	return `The device CA rolls over while its certificates go on to hold: the next version has a key and a certificate of its own, and the versions before stay in the token and in the file of roots. First give every verifier that file (device service, senders of messages), then name the new certificate as device_ca in the SPPs' configuration and start them again. Certificates that wait in the pool were signed by the version before and are used up as they are. The same command again makes what a crash left out, and nothing else.`
}

func (*deviceCACmd) Examples() string {
	return `$ custodian device-ca --config custodian.yaml 2`
}

// deviceCAResult is what device-ca says it did; its field names are part of the interface.
type deviceCAResult struct {
	Token       string    `json:"token"`
	Version     uint32    `json:"version"`
	Key         string    `json:"key"`         // its label
	PublicKey   string    `json:"public_key"`  // key id
	Certificate string    `json:"certificate"` // file
	Roots       string    `json:"roots"`       // file: this version's certificate and those before
	Entries     int       `json:"entries"`     // appended to the audit log
	Files       madeFiles `json:"files"`       // made by this run
}

func (r deviceCAResult) String() string {
	t := console.NewTable(console.Columns("what", "result")...)
	t.Row("key", fmt.Sprintf("%s in %s, key id %s", r.Key, r.Token, r.PublicKey))
	t.Row("certificate", r.Certificate)
	t.Row("roots", r.Roots)
	t.Row("audit entries", r.Entries)
	for _, f := range r.Files {
		t.Row("wrote", f)
	}
	return t.String()
}

func (c *deviceCACmd) Run(ctx context.Context, io console.IO) (err error) {
	var config Config
	if err := console.LoadConfig(c.Config.String(), &config); err != nil {
		return err
	}
	switch {
	case config.Realm != identity.Development:
		return console.Usagef("realm is %s: device-ca makes development keys, without backup; production keys are born in a ceremony", config.Realm)
	case c.Version < 2 || c.Version > maker.MaxDeviceCA:
		return console.Usagef("version %d: 2 to %d are allowed; custodian setup makes version 1", c.Version, maker.MaxDeviceCA)
	}
	unlock, err := exclusive(c.Config.String(), config.Public.String())
	if err != nil {
		return err
	}
	defer unlock()
	l, err := openLicence(ctx, config, io.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	module, tok, err := tokenconfig.Open(ctx, config.Realm, config.Token, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	result := deviceCAResult{Token: tok.Info().Label, Version: c.Version, Files: madeFiles{}}
	if err := result.make(ctx, tok, config, l); err != nil {
		return err
	}
	return c.Print(io.Out, result)
}

// make makes key, certificate and roots, each with its audit entry first. A crash after any of them leaves what is
// made so far, and the next run goes on from there.
func (r *deviceCAResult) make(ctx context.Context, tok *hsm.Token, config Config, l *licence) error {
	before, err := earlierCAs(tok, config, r.Version)
	if err != nil {
		return err
	}
	if err := maker.CreateDeviceCA(ctx, tok, config.Realm, r.Version, l.ceremony); err != nil {
		return console.Hint(err, "give the version that follows the newest one: custodian show lists them")
	}
	a := deviceAuthority(config, r.Version)
	made, err := a.publish(ctx, tok, config, l)
	if err != nil {
		return err
	}
	r.Key, r.Certificate = a.label, a.path(config)
	r.Files.note(made, r.Certificate)
	cert, err := readFile(r.Certificate)
	if err != nil {
		return err
	}
	r.Roots = filepath.Join(config.Public.String(), fmt.Sprintf("device-cas-%d.pem", r.Version))
	if made, err = publish(r.Roots, append(before, cert...)); err != nil {
		return err
	}
	r.Files.note(made, r.Roots)
	keys, err := maker.Open(ctx, tok, config.Realm)
	if err != nil {
		return err
	}
	key, err := tok.Find(ctx, maker.DeviceCASpec(config.Realm, r.Version))
	if err != nil {
		return err
	}
	public, err := statement.ParsePoint(key.Public())
	if err != nil {
		return err
	}
	r.PublicKey, r.Entries = public.ID().String(), l.entries
	if l.entries == 0 {
		return nil
	}
	_, err = l.log.SignHead(ctx, keys.SignAuditHead)
	return err
}

// earlierCAs gives the certificates of the versions before one, PEM, each checked against its key. They are read
// before anything is made: without one of them there would be no file of roots in the end.
func earlierCAs(tok *hsm.Token, config Config, version uint32) (text []byte, err error) {
	for v := uint32(1); v < version; v++ {
		a := deviceAuthority(config, v)
		signer, err := tok.Signer(a.label)
		if errors.Is(err, hsm.ErrNoKey) {
			return nil, console.Usagef("version %d: the token has no version %d yet, and versions follow each other: make that one first", version, v)
		}
		if err != nil {
			return nil, err
		}
		cert, err := readCertificate(a.path(config))
		if errors.Is(err, os.ErrNotExist) {
			return nil, console.Hint(err, "put the certificate of version %d back, which verifiers have; nothing was made", v)
		}
		if err == nil {
			err = a.check(a.path(config), cert, signer)
		}
		if err != nil {
			return nil, err
		}
		text = append(text, certificatePEM(cert.Raw)...)
	}
	return text, nil
}
