package console

import (
	"context"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// stopSignals are those that ask a program to stop.
var stopSignals = []os.Signal{os.Interrupt, syscall.SIGTERM}

// dieTimeout is how long a signal that the process sent to itself may be on
// its way.
const dieTimeout = 100 * time.Millisecond

// signalled is why a program stops: the cause of its context's end.
type signalled string

func (s signalled) Error() string      { return string(s) + " signal received" }
func (signalled) Is(target error) bool { return target == context.Canceled }

// stoppable gives a context that the first of stopSignals cancels. The second
// one ends the process at once, as that signal does by default: no deferred
// call runs, and a shell sees which signal it was.
//
// One goroutine takes both. Were the default action put back after the first
// one instead, a second one on its heels would be swallowed.
func stoppable() context.Context {
	ctx, cancel := context.WithCancelCause(context.Background())
	signals := make(chan os.Signal, 2) // as many as are acted on
	signal.Notify(signals, stopSignals...)
	go func() {
		cancel(signalled((<-signals).String()))
		die(<-signals)
	}()
	return ctx
}

// die ends the process by a signal's default action, or, where whoever started
// the program had it ignore that signal, with the code that a shell would show.
func die(s os.Signal) {
	signal.Reset(stopSignals...)
	if p, err := os.FindProcess(os.Getpid()); err == nil && p.Signal(s) == nil {
		time.Sleep(dieTimeout)
	}
	n, _ := s.(syscall.Signal)
	os.Exit(128 + int(n))
}
