package main

import (
	"fmt"
	"os/user"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/databaseconfig"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/identity"
)

// Config is the custodian's configuration.
type Config struct {
	Realm        identity.Realm        `yaml:"realm" required:"true" example:"development" help:"development or production; nothing made in one is accepted in the other. Keys for production are born in a ceremony, not by setup."`
	Organisation string                `yaml:"organisation" default:"Devicekeys development" help:"The manufacturer's name in certificates, 1 to 64 characters."`
	Actor        string                `yaml:"actor" example:"alice" help:"Who acts, as the audit log names them. Left out: the name of the user who runs the command."`
	Records      databaseconfig.Config `yaml:"records" help:"Database records, whose audit log gets an entry before each act."`
	Token        tokenconfig.Config    `yaml:"token" help:"The SPP's token. Its PIN file is made by setup where the token doesn't exist yet."`
	SOPINFile    console.Path          `yaml:"so_pin_file" required:"true" example:"pins/spp-so.pin" help:"File of mode 0400 with the token's security officer PIN; made by setup where the token doesn't exist yet. Only setup reads it."`
	Public       console.Path          `yaml:"public" required:"true" example:"public" help:"Folder for what setup publishes: rom-key.pem, submission.pem, audit.pem, station-ca.pem, device-ca.pem."`
	Masters      []MasterConfig        `yaml:"masters" help:"Master keys. Left out: version 1 with KDF 1."`
	Purposes     []string              `yaml:"purposes" default:"[channel]" help:"Purposes for which device keys are derived; a product line's profile names them."`
}

// MasterConfig is one version of the master key.
type MasterConfig struct {
	Version uint32 `yaml:"version" required:"true" example:"1" help:"From 1; devices say which one they are of."`
	KDF     uint8  `yaml:"kdf" default:"1" help:"1 or 2, fixed for the version's life. 2 needs a token with SP 800-108."`
}

// Validate checks the values once the configuration is read.
func (c Config) Validate() error {
	if n := len(c.Organisation); n < 1 || n > 64 {
		return fmt.Errorf("organisation has %d characters: 1 to 64 are allowed", n)
	}
	return nil
}

func (c Config) plan() maker.Plan {
	p := maker.Plan{Realm: c.Realm, Purposes: c.Purposes}
	for _, m := range c.Masters {
		p.Masters = append(p.Masters, maker.Master{Version: m.Version, KDF: hsm.KDF(m.KDF)})
	}
	if len(p.Masters) == 0 {
		p.Masters = []maker.Master{{Version: 1, KDF: hsm.KDF1}}
	}
	return p
}

// actor is who acts.
func (c Config) actor() (string, error) {
	if c.Actor != "" {
		return c.Actor, nil
	}
	u, err := user.Current()
	if err != nil {
		return "", console.Hint(fmt.Errorf("find out who acts: %w", err), "write actor into the configuration")
	}
	return u.Username, nil
}
