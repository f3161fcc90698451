// Command custodian does the key custodians' work: it sets up the SPP's token with the maker's keys, makes the tokens
// of the other programs, and certifies stations and servers. This release has the development realm's set-up; a
// production realm's keys are born in a ceremony, with a backup, which is not part of it yet.
//
// Every birth of a key in the SPP's token and every use of a CA key has an entry in the audit log, committed before
// the act. When the database is not reachable nothing is done. Files are made, never overwritten, and every command
// may be repeated, also after a crash: what exists and checks out is kept.
package main

import "github.com/devicekeys/devicekeys/cmd/internal/console"

type program struct {
	Setup     setupCmd                   `cmd:"" help:"Make the SPP's token and the maker's keys in it (development realm)."`
	Token     tokenCmd                   `cmd:"" help:"Make another program's token, its TLS key and a certificate request."`
	Certify   certifyCmd                 `cmd:"" help:"Sign a certificate request as the station CA."`
	DeviceCA  deviceCACmd                `cmd:"" name:"device-ca" help:"Make the device CA's next version: its key, its certificate, and the roots of all versions (development realm)."`
	Purpose   purposeCmd                 `cmd:"" help:"Bring a purpose key into the device service's token: export and import."`
	Transport transportCmd               `cmd:"" help:"The key that keys from outside are wrapped to."`
	Show      showCmd                    `cmd:"" help:"List the keys of the SPP's token as they are read back."`
	Keys      keysCmd                    `cmd:"" help:"Explain every kind of key: where it is, who may use it, what a thief gains."`
	Config    console.ConfigHelp[Config] `cmd:"" help:"Print every key of the configuration and its default."`
}

const session = `
$ custodian config > custodian.yaml                  # and fill it in
$ custodian setup --config custodian.yaml
$ custodian token --for sequencer --name sequencer-1 --token dev-sequencer \
    --pin-file pins/sequencer.pin --request sequencer.csr --checkpoint-key checkpoint.pem
$ custodian certify --config custodian.yaml --kind server --role sequencer \
    --name sequencer-1 --dns localhost --request sequencer.csr --out sequencer.pem
$ custodian certify --config custodian.yaml --kind station --name line-1 --line phone \
    --tac 00440200-00440299 --quota 100000 --request line-1.csr --out line-1.pem
$ custodian show --config custodian.yaml`

func main() {
	console.Main("custodian", "The key custodians' work: tokens, keys, certificates.", &program{}, console.Examples(session))
}
