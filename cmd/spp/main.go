// Command spp is the secure processing point: it serves the stations of an assembly line with the maker's keys in an
// HSM, and has the commands around that: chips and identities that arrive, unlock statements, the state of things.
//
// Several spp processes may serve one set of databases, each with its own token that holds the same keys. Commands
// beside serve talk to the databases directly and may run while it serves; only statement unlock, device scrap and
// device swap need the token, and the last two only where the registry has an entry of the device.
package main

import "github.com/devicekeys/devicekeys/cmd/internal/console"

type program struct {
	Serve     serveCmd                   `cmd:"" help:"Serve stations until SIGTERM, then finish what is under way."`
	Chips     chipsCmd                   `cmd:"" help:"Chips that were delivered."`
	Pool      poolCmd                    `cmd:"" help:"Identities that wait for devices."`
	Statement statementCmd               `cmd:"" help:"Statements signed by the identity-signing key."`
	Device    deviceCmd                  `cmd:"" help:"One device: its history, and what an operator does with it."`
	Outbox    outboxCmd                  `cmd:"" help:"Entries that wait for the registry, or were refused there."`
	Incident  incidentCmd                `cmd:"" help:"What should not have happened."`
	Station   stationCmd                 `cmd:"" help:"Stations that may not call any more."`
	Status    statusCmd                  `cmd:"" help:"Say what is in stock, under way, waiting and set aside."`
	Migrate   migrateCmd                 `cmd:"" help:"Bring the schemas of the databases pool and records to this version."`
	Config    console.ConfigHelp[Config] `cmd:"" help:"Print every key of the configuration and its default."`
}

const session = `
$ spp config > spp.yaml                                # and fill it in
$ spp migrate --config spp.yaml
$ spp chips import --config spp.yaml delivery-17.cose
$ spp pool import --config spp.yaml --batch 2026-31 --line phone imeis.csv
$ spp serve --config spp.yaml &
$ spp status --config spp.yaml
$ spp statement unlock --config spp.yaml --record 9f86d081884c... \
    --reason "board repaired" --operator alice
$ spp device show --config spp.yaml 9f86d081884c...`

func main() {
	console.Main("spp", "The secure processing point: gives devices their identity and keys.", &program{}, console.Examples(session))
}
