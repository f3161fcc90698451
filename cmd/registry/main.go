// Command registry serves the public registry over HTTP, looks records up in it,
// and sets its database up. It needs neither cgo nor an HSM: it reads, and what it
// serves is checked by those who read it.
package main

import "github.com/devicekeys/devicekeys/cmd/internal/console"

const description = `The permanent public registry of device records. It serves entries over HTTP to anyone, from a database that it
can only read. A record opens only with the chip ID of its device, so a registry can be mirrored by all and tells
nothing; "registry get" opens one and checks it against the key in the device's ROM.`

const session = `$ registry config > registry.yaml         # and fill it in
$ registry serve --config registry.yaml &
$ registry get --url http://127.0.0.1:8080 5eb9155ae051a0c3c90358d08244d50d019736f56629bb99a8892f9ab6660c90
record        type       generation  sequence  newest  realm        bytes
5eb9155ae051  supersede           2         1  true    development    935
$ registry get --url http://127.0.0.1:8080 --realm development --chip-id-file chip-id --rom-key rom-key.pem
what        value
record      5eb9155ae051a0c3c90358d08244d50d019736f56629bb99a8892f9ab6660c90
identity    imei 004402450000017
generation  2
realm       development
issued at   2023-11-14T22:13:20Z
manifest    05b3abf2579a5eb66403cd78be557fd860633a1fe2103c7642030defe32c657f
signed by   key 254d8b0e2788125e
backup      600 bytes
X.509       0 certificates`

type program struct {
	Serve        serveCmd        `cmd:"" help:"Serve lookups over HTTP."`
	Get          getCmd          `cmd:"" help:"Look a record up; open and check it where the chip ID is given."`
	Certificates certificatesCmd `cmd:"" help:"Find the certificates that a device's product line publishes, by record id or identity, and check them."`
	Migrate      migrateCmd      `cmd:"" help:"Set up the registry's database, or bring it to this version, and set its roles' rights."`
	Config       configCmd       `cmd:"" help:"Print every key of a configuration and its default."`
}

type configCmd struct {
	Serve   console.ConfigHelp[ServeConfig]   `cmd:"" default:"1" help:"Of the serve command."`
	Migrate console.ConfigHelp[MigrateConfig] `cmd:"" help:"Of the migrate command."`
}

func main() {
	console.Main("registry", description, &program{}, console.Examples(session))
}
