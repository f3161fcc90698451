package console

import (
	"os"
	"runtime/debug"
)

// serverGC is how much a server's heap may grow between two collections, in per cent. What
// lives in ours is a few megabytes, so that Go by itself collects dozens of times a
// second, for a tenth of the program's time; with this it takes some 20 MB more.
const serverGC = 400

// CollectSeldom sets a server's garbage collection, unless the environment sets GOGC.
func CollectSeldom() {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(serverGC)
	}
}
