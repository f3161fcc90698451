package console

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/alecthomas/kong"
)

type versionFlag bool

// BeforeReset prints the version before anything is checked, so that it works without the required flags.
func (versionFlag) BeforeReset(ctx *kong.Context) error {
	fmt.Fprintln(ctx.Stdout, ctx.Model.Name, Version())
	return errShown
}

// Version says which source the program was built from, as the Go tool recorded it: the module's version, or the
// commit, with "modified" if files differed from it, and the toolchain.
func Version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "of unknown source, " + runtime.Version()
	}
	setting := map[string]string{}
	for _, s := range info.Settings {
		setting[s.Key] = s.Value
	}
	version := info.Main.Version
	if version == "" {
		version = "(devel)"
	}
	if revision := setting["vcs.revision"]; revision != "" {
		version += " " + revision
		if setting["vcs.modified"] == "true" {
			version += " modified"
		}
	}
	return version + " " + info.GoVersion
}
