// Command deviceservice is the maker's server that devices in the field speak with, over a channel that their factory
// keys open. Its HSM holds the channel's purpose key and nothing else of the manufacturer's.
package main

import "github.com/devicekeys/devicekeys/cmd/internal/console"

const description = `The server that devices in the field speak with. A device says who it is and proves with its factory key that it is
that; the service looks into the manufacturer's records whether that identity was issued and is in the field, and gets
the key in an HSM of its own. Refused peers are not told why: metrics and log are.`

const session = `$ deviceservice config > deviceservice.yaml    # and fill it in
$ deviceservice grant --config grant.yaml       # once, as the owner of database records
database  records
role      service
$ deviceservice serve --config deviceservice.yaml`

type program struct {
	Serve  serveCmd  `cmd:"" help:"Serve devices."`
	Grant  grantCmd  `cmd:"" help:"Let the service's role read what was issued, in the manufacturer's records."`
	Config configCmd `cmd:"" help:"Print every key of a configuration and its default."`
}

type configCmd struct {
	Serve console.ConfigHelp[Config]      `cmd:"" default:"1" help:"Of the serve command."`
	Grant console.ConfigHelp[GrantConfig] `cmd:"" help:"Of the grant command."`
}

func main() {
	console.Main("deviceservice", description, &program{}, console.Examples(session))
}
