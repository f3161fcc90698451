// Command auditor holds the product's invariants against what is stored, and reads the audit log.
//
// It connects as role auditor, which reads and can append to the audit log but change nothing. With --token it also
// asks the SPP's HSM whether the restore proofs are right; that uses keys, so each use has an entry in the log first.
package main

import "github.com/devicekeys/devicekeys/cmd/internal/console"

type program struct {
	Check  checkCmd                   `cmd:"" help:"Check every invariant, and name what breaks one."`
	Log    logCmd                     `cmd:"" help:"Verify the audit log and show its entries."`
	Heads  headsCmd                   `cmd:"" help:"Verify and list the audit log's signed heads, and keep one elsewhere."`
	Config console.ConfigHelp[Config] `cmd:"" help:"Print every key of the configuration and its default."`
}

const session = `
$ auditor config > auditor.yaml                        # and fill it in
$ auditor check --config auditor.yaml                  # databases and registry
$ auditor check --config auditor.yaml --token          # and the proofs, in the HSM
$ auditor heads --config auditor.yaml --save 2026-11.head
$ auditor log --config auditor.yaml --head 2026-11.head --kind certify`

func main() {
	console.Main("auditor", "Evidence: are the invariants kept, and is the audit log whole?", &program{}, console.Examples(session))
}
