package console

import (
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/schollz/progressbar/v3"
	"golang.org/x/term"
)

// progressEvery is how often a progress line is written where there is no terminal: often enough to see that work
// goes on, seldom enough for a log.
const progressEvery = 5 * time.Second

// Bar shows how far a long piece of work is. It is safe for concurrent use, and its zero value shows nothing.
type Bar struct {
	w     io.Writer
	label string
	total int
	begun time.Time
	bar   *progressbar.ProgressBar // nil without a terminal

	mu   sync.Mutex // guards what follows
	done int
	last time.Time
	shut bool
}

// Progress starts showing work of total steps on w, usually IO.Err: as a bar if w is a terminal, else as a line
// every few seconds and one at the end. It starts no goroutine; call Done when the work ends, however it ends.
func Progress(w io.Writer, total int, label string) *Bar {
	now := time.Now()
	b := &Bar{w: w, label: label, total: total, begun: now, last: now}
	if f, ok := w.(*os.File); ok && term.IsTerminal(int(f.Fd())) && total > 0 {
		b.bar = progressbar.NewOptions(total,
			progressbar.OptionSetWriter(w),
			progressbar.OptionSetDescription(label),
			progressbar.OptionSetWidth(30),
			progressbar.OptionShowCount(),
			progressbar.OptionShowIts(),
			progressbar.OptionThrottle(65*time.Millisecond), // 15 pictures a second look smooth
			progressbar.OptionClearOnFinish(),
		)
	}
	return b
}

// Add tells that n more steps are done.
func (b *Bar) Add(n int) {
	if b == nil || b.w == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.done += n
	if b.shut {
		return
	}
	if b.bar != nil {
		_ = b.bar.Add(n) // fails past the total or when the terminal is gone; the work matters more
		return
	}
	if now := time.Now(); now.Sub(b.last) >= progressEvery {
		b.last = now
		b.line(now)
	}
}

// Done ends the display: the bar is removed and one line says how far it came. Calling it again does nothing.
func (b *Bar) Done() {
	if b == nil || b.w == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.shut {
		return
	}
	b.shut = true
	if b.bar != nil {
		_ = b.bar.Exit() // stops drawing; an error means the terminal is gone
		_ = b.bar.Clear()
	}
	b.line(time.Now())
}

// line writes one line; b.mu is held.
func (b *Bar) line(now time.Time) {
	took := now.Sub(b.begun)
	rate := ""
	if s := took.Seconds(); s >= 0.1 {
		rate = fmt.Sprintf(", %.1f/s", float64(b.done)/s)
	}
	fmt.Fprintf(b.w, "%s: %d of %d in %s%s\n", b.label, b.done, b.total, took.Round(100*time.Millisecond), rate)
}
