// Command sequencer is the only writer of the public registry. It takes signed
// submissions from secure processing points over mutual TLS and gives each entry
// its place. Its TLS key and its checkpoint key are in a token of its own.
package main

import "github.com/devicekeys/devicekeys/cmd/internal/console"

const description = `The only writer of the public registry. Secure processing points submit signed entries over mutual TLS; the sequencer
checks who submits and what, numbers the entries without gaps, makes them durable and acknowledges them. One of it runs
per registry: a second one stops by itself. The registry's database is set up by "registry migrate".`

const session = `$ sequencer config > sequencer.yaml        # and fill it in
$ custodian token --for sequencer --name sequencer-1 --token dev-sequencer \
    --pin-file pins/sequencer.pin --request sequencer.csr --checkpoint-key checkpoint.pem
$ custodian certify --config custodian.yaml --kind server --role sequencer \
    --name sequencer-1 --dns localhost --request sequencer.csr --out sequencer.pem
$ sequencer serve --config sequencer.yaml`

type program struct {
	Serve  serveCmd                   `cmd:"" help:"Take submissions."`
	Config console.ConfigHelp[Config] `cmd:"" help:"Print every key of the configuration and its default."`
}

func main() {
	console.Main("sequencer", description, &program{}, console.Examples(session))
}
