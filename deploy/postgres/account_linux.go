package postgres

import "syscall"

// capabilityExists is a variable so that a test can see what happens without.
var capabilityExists = true

// capDACOverride is CAP_DAC_OVERRIDE of capabilities(7).
const capDACOverride = 1

// addCapability gives the command CAP_DAC_OVERRIDE, and nothing else of root's, if the
// account needs it. Go puts it into the inheritable and the ambient set, so that it
// survives the change of user and every exec.
func (a account) addCapability(attr *syscall.SysProcAttr) {
	if a.override {
		attr.AmbientCaps = []uintptr{capDACOverride}
	}
}
