package main

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/device/chip"
)

func TestScript(t *testing.T) {
	t.Parallel()
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts found: %v", err)
	}
	for _, script := range scripts {
		t.Run(strings.TrimSuffix(filepath.Base(script), ".txtar"), func(t *testing.T) {
			t.Parallel()
			testscript.Run(t, testscript.Params{
				Files: []string{script}, RequireExplicitExec: true, Cmds: scriptCommands,
				Setup: func(env *testscript.Env) error {
					p := newPlace(t, env.WorkDir, "https://127.0.0.1:1")
					var chips []*chip.Software
					for range 3 {
						_, c := newDevice(t)
						chips = append(chips, c)
					}
					p.deliver("delivery.cose", "chip maker", chips...)
					p.deliver("foreign.cose", "nobody", chips...)
					other, err := chip.NewSoftware(chips[0].Realm(), 32, "")
					if err != nil {
						return err
					}
					p.deliverContradiction("clone.cose", chips[0], other)
					env.Setenv("GORACE", gorace)
					env.Setenv("SOFTHSM2_CONF", p.tokens.Conf())
					env.Setenv("CUSTODIAN", p.custodian)
					env.Setenv("CLONED", chips[0].ID().RecordID().String())
					env.Setenv("NOBODY", strings.Repeat("01", 32))
					env.Setenv("LONG", strings.Repeat("x", maxOperator+1))
					env.Setenv("BELL", "ring\a")
					env.Values[stageKey{}] = &scene{place: p}
					return nil
				},
			})
		})
	}
}
