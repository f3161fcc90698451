package deviceservice

import (
	"fmt"
	"net/netip"
	"runtime"
	"strings"
)

// recovered ends a panic of one connection: it is counted and logged, and the connection closes. What the panic says may
// be a peer's bytes, so the log has its type and where it was, and no more.
func (s *Service) recovered(a *admission, from netip.Addr) {
	value := recover()
	if value == nil {
		return
	}
	s.metrics.panics.Inc()
	s.opts.Log.Error("a fault of the service ended a connection: report it", "source", from,
		"suite", suiteName(a.hello.Suite), "type", fmt.Sprintf("%T", value), "at", where())
}

// maxFrames bounds how much of a panic's stack is logged.
const maxFrames = 24

// where gives the stack of a panic, innermost first: functions and lines, without their arguments.
func where() string {
	pcs := make([]uintptr, maxFrames)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(4, pcs)]) // without Callers, where, recovered and the runtime's own
	var all []string
	for {
		f, more := frames.Next()
		if f.Function != "" {
			all = append(all, fmt.Sprintf("%s:%d", f.Function, f.Line))
		}
		if !more {
			return strings.Join(all, " < ")
		}
	}
}
