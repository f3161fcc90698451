// Command station works on a line: it takes the devices in its fixtures from
// bare chip to shipped, several at once.
package main

import (
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

const description = `The station of an assembly line. It loads the software modules and the ROM key into each device in its
fixtures and carries the conversation between device and SPP, until the device was restored once from its backup, its
record is published and its chip is locked. It holds no key of any device; running it again takes up what an earlier
run left half way.`

const session = `$ station run --config station.yaml
device       record        generation  sequence  result
device-0001  3f0c81d2a9b4           1         0  shipped
device-0002  90ab12cd34ef           1         1  shipped

$ station status --config station.yaml
device       record                                                            generation  state     since                 remark
device-0003  9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08           1  restored  2026-11-23T14:05:09Z  put it in a fixture and run the station

$ station prove --config station.yaml device-0001
device       identity         generation  result
device-0001  004402000000017           1  holds its keys`

type program struct {
	Run    runCmd                     `cmd:"" help:"Take devices through the line."`
	Status statusCmd                  `cmd:"" help:"List the devices in the journal: what an earlier run left half way, and what waits for the registry."`
	Prove  proveCmd                   `cmd:"" help:"Check with the SPP's HSM that a shipped device holds its keys."`
	Config console.ConfigHelp[Config] `cmd:"" help:"Print every key of the configuration and its default."`
}

func main() {
	console.Main("station", description, &program{}, console.Examples(session))
}

// stopped is the error of a line that did not ship every device.
type stopped struct {
	count, parked, of int
	line              error // what stopped the whole line, or nil
}

func (s stopped) Error() string {
	text := plural(s.count, "device") + " of " + plural(s.of, "device") + " not shipped"
	if s.parked > 0 {
		text += fmt.Sprintf("; %d of them only wait for the registry", s.parked)
	}
	if s.line != nil {
		text += ": " + s.line.Error()
	}
	return text
}

// Unwrap gives what stopped the line: its code and its next step are the
// command's.
func (s stopped) Unwrap() error { return s.line }

func (s stopped) Next() string {
	var next interface{ Next() string }
	switch {
	case errors.As(s.line, &next):
		return next.Next()
	case s.parked == s.count:
		return "run the station again once the registry is back"
	}
	return "see each device's error in the table; what can be resumed is resumed by running the station again"
}

// closing joins the error of a deferred close to the one that a function
// returns.
func closing(err *error, close func() error) { *err = errors.Join(*err, close()) }
