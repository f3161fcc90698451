package postgres

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// watchdogScript starts the server and outlives it. Its standard input is the lifeline:
// when the writing end closes, that is when the program that started it is gone, it
// stops the server at once (SIGQUIT: the next start replays the log), and then
// removes what it was told to. The word "stay" cuts the lifeline without that. The
// server is its child, unreaped until the last line but three, so no signal can hit
// another process of the same number.
//
// Arguments: the folders to remove, "--", the server's command line.
const watchdogScript = `
exec 3<&0 </dev/null
remove=
while [ "$1" != -- ]; do
	# Folders without odd letters come here, but don't rely on it.
	remove="$remove '$(printf %s "$1" | sed "s/'/'\\\\''/g")'"
	shift
done
shift
"$@" 3<&- &
server=$!
{
	read -r word <&3
	[ "$word" = stay ] || kill -QUIT "$server"
} &
lifeline=$!
exec 3<&-
wait "$server"
status=$?
kill "$lifeline"
[ -z "$remove" ] || eval "rm -rf -- $remove"
exit $status
`

const (
	// quitBound bounds the wait for a server told to quit at once. It kills its own
	// children after five seconds.
	quitBound = 15 * time.Second

	// lockBound bounds the wait for another program that starts or makes the same
	// cluster.
	lockBound = startBound + initBound
	lockPoll  = 50 * time.Millisecond
)

// watchdog is the running script.
type watchdog struct {
	lifeline *os.File      // our end; the kernel closes it when we are gone
	done     chan struct{} // closed when script and server have ended
}

// startWatchdog runs the server's command line under the script.
func startWatchdog(who account, logFile string, remove, server []string) (*watchdog, error) {
	out, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	theirs, ours, err := os.Pipe() // both close on exec: no child of ours keeps the line alive
	if err != nil {
		return nil, err
	}
	defer theirs.Close()
	args := append([]string{"-c", watchdogScript, "postgres-watchdog"}, remove...)
	cmd := who.command("/bin/sh", append(append(args, "--"), server...)...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, out, out
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start watchdog: %w", err), ours.Close())
	}
	w := &watchdog{lifeline: ours, done: make(chan struct{})}
	go func() { // ends with the server
		cmd.Wait() // how it ended is in the log
		close(w.done)
	}()
	return w, nil
}

// end cuts the lifeline and waits for the end of it all.
func (w *watchdog) end() error {
	w.lifeline.Close()
	select {
	case <-w.done:
		return nil
	case <-time.After(quitBound):
		return fmt.Errorf("the server did not quit within %s", quitBound)
	}
}

// stay lets the server outlive us.
func (w *watchdog) stay() error {
	_, err := io.WriteString(w.lifeline, "stay\n")
	return errors.Join(err, w.lifeline.Close())
}

// pidFile is what postmaster.pid tells of a running server.
type pidFile struct {
	pid     int
	sockets string
	memory  int // id of its System V shared memory, 0 if not told
}

// readPIDFile reads the lines of postmaster.pid: pid, data folder, start time, port,
// socket folder, address, shared memory key and id, state.
func readPIDFile(data string) (pidFile, error) {
	const most = 4096
	f, err := os.Open(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return pidFile{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, most))
	if err != nil {
		return pidFile{}, err
	}
	return parsePIDFile(b)
}

func parsePIDFile(b []byte) (pidFile, error) {
	lines := strings.Split(string(b), "\n")
	var p pidFile
	if _, err := fmt.Sscan(lines[0], &p.pid); err != nil || p.pid <= 1 {
		return pidFile{}, errors.New("postmaster.pid has no process id")
	}
	if len(lines) > 4 {
		p.sockets = lines[4]
	}
	if len(lines) > 6 {
		var key int
		fmt.Sscan(lines[6], &key, &p.memory) // absent while the server starts
	}
	return p, nil
}

// lockDir keeps other programs from making or starting the same cluster. The lock ends
// with the process if nothing else ends it.
func lockDir(ctx context.Context, dir string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockBound)
	defer cancel()
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return func() { f.Close() }, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock the folder: %w", err), f.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock the folder: another program starts a server in it: %w", context.Cause(ctx)), f.Close())
		case <-time.After(lockPoll):
		}
	}
}
