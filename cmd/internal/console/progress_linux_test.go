package console_test

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/untested"
	"golang.org/x/sys/unix"
)

// terminal opens a pseudo-terminal: what is written to the one end can be read at the other.
func terminal(t *testing.T) (user, program *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		untested.Except(t, "the progress bar: there is no pseudo-terminal: %v", err)
	}
	t.Cleanup(func() { user.Close() })
	if err := unix.IoctlSetPointerInt(int(user.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(user.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	program, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		untested.Except(t, "the progress bar: there is no pseudo-terminal: %v", err)
	}
	return user, program
}

func TestProgressOnTerminal(t *testing.T) {
	t.Parallel()
	user, program := terminal(t)
	shown := make(chan string, 1)
	go func() {
		var b bytes.Buffer
		_, _ = io.Copy(&b, user) // ends with an error when the other end is closed
		shown <- b.String()
	}()
	bar := console.Progress(program, 2, "devices")
	bar.Add(1)
	time.Sleep(100 * time.Millisecond) // past the throttle
	bar.Add(0)
	bar.Add(5) // past the total: shown or not, no failure
	bar.Done()
	program.Close()
	have := receive(t, shown, "the terminal's end")
	if !strings.Contains(have, "(1/2") || !strings.Contains(have, "\r") {
		t.Errorf("no bar on a terminal: %q", have)
	}
	if !strings.Contains(have, "devices: 6 of 2 in ") {
		t.Errorf("no closing line on a terminal: %q", have)
	}
}
