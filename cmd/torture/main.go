// Command torture runs a whole factory and breaks it while it works: two SPPs with two
// tokens of the same keys, several stations, sequencer, registry and Postgres, with proxies
// between them; programs are killed, paused and cut off from each other, HSM calls fail.
// Then everything is let be, the stations finish, and it is checked that nothing that was
// acknowledged is lost, no identity exists twice, every invariant holds and every device can
// be restored.
//
// The faults are a function of the seed (package fault). What they hit is not: programs run
// as they like.
//
// The parts of this program:
//
//	factory   the plant and its devices
//	fleet     the stations' work: processes over devices, again and again
//	keeper    starts what has ended, as an operator's service manager would
//	breaker   carries out the plan of faults
//	verify    what must hold in the end
//	steps     a kill at every boundary of one device's conversation
//	disk      a full disk under Postgres
package main

import (
	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

const description = `A factory under faults: stations assemble devices through two SPPs while programs are killed and paused, connections
cut, held and delayed, HSM calls failed, Postgres crashed. Then it heals, finishes, and everything is checked: nothing
acknowledged is lost, nothing is there twice, every invariant holds, devices restore from the registry.`

const session = `$ make torture                              # 2 minutes, a seed of its own, printed
$ make torture DURATION=30m DEVICES=50000 SEED=7
$ make torture CHIPS=token DEVICES=1000     # each chip a PKCS#11 token
$ make torture STEPS=all                    # a kill at every step of one device
$ bin/torture disk                          # a full disk under Postgres; needs root`

type program struct {
	Run   runCmd   `cmd:"" default:"withargs" help:"Random faults over a time (default)."`
	Steps stepsCmd `cmd:"" help:"A kill at every boundary of one device's conversation."`
	Disk  diskCmd  `cmd:"" help:"A full disk under Postgres. Needs root, for a file system of its own."`
	Line  lineCmd  `cmd:"" hidden:"" help:"A station whose devices have software chips; started by run and steps."`
}

func main() { console.Main("torture", description, &program{}, console.Examples(session)) }
