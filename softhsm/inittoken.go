package softhsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
)

const (
	// utilBound bounds one run of softhsm2-util: tens of milliseconds, seconds in a
	// directory of thousands of tokens.
	utilBound = 30 * time.Second

	// lockBound bounds the wait for the directory's lock, which others hold for as long
	// as one such run or one login takes.
	lockBound = time.Minute
	lockPoll  = 10 * time.Millisecond
)

// InitToken makes a token by running softhsm2-util, so that the module of this process,
// and the directory it is attached to, stay untouched. A label in use is refused.
//
// It is for tests: softhsm2-util takes PINs from a terminal or from its command line, and
// here from the latter, where for a moment every user of the machine can read them.
// Programs use [Directory.Attach] and [hsm.Module.InitToken].
//
// A crash in between leaves no token, or one whose PINs nobody knows.
func (d *Directory) InitToken(label string, soPIN, userPIN secret.Secret) (Token, error) {
	t, err := d.initToken(label, soPIN, userPIN)
	if err != nil {
		return Token{}, fmt.Errorf("make token %q in %q: %w", label, d.path, err)
	}
	return t, nil
}

func (d *Directory) initToken(label string, soPIN, userPIN secret.Secret) (Token, error) {
	if err := checkLabel(label); err != nil {
		return Token{}, err
	}
	if soPIN.IsZero() || userPIN.IsZero() {
		return Token{}, errors.New("a PIN is missing: draw one with secret.Random")
	}
	unlock, err := d.lock()
	if err != nil {
		return Token{}, err
	}
	defer unlock()
	serials, err := d.serials(label)
	if err != nil {
		return Token{}, err
	}
	if len(serials) > 0 {
		return Token{}, fmt.Errorf("a token of this label exists (serial number %s): choose another label", serials[0])
	}
	if _, err := d.util("--init-token", "--free", "--label", label,
		"--so-pin", string(soPIN.Bytes()), "--pin", string(userPIN.Bytes())); err != nil {
		return Token{}, err
	}
	serials, err = d.serials(label)
	if err != nil {
		return Token{}, err
	}
	if len(serials) != 1 {
		return Token{}, fmt.Errorf("softhsm2-util made it, and now %d tokens have this label", len(serials))
	}
	return Token{Label: label, Serial: serials[0], PIN: userPIN, SOPIN: soPIN}, nil
}

// checkLabel refuses labels that PKCS#11 would cut or pad away (32 bytes, filled up with
// spaces), or that the output of softhsm2-util couldn't be read by.
func checkLabel(label string) error {
	if label == "" || len(label) > 32 || strings.TrimSpace(label) != label {
		return errors.New("a label has 1 to 32 bytes and no space at its ends")
	}
	for _, r := range label {
		if r < ' ' || r > '~' {
			return errors.New("a label is printable ASCII")
		}
	}
	return nil
}

// serials lists the serial numbers of the tokens of a label.
func (d *Directory) serials(label string) ([]string, error) {
	out, err := d.util("--show-slots")
	if err != nil {
		return nil, err
	}
	return parseSlots(out)[label], nil
}

// parseSlots reads what softhsm2-util --show-slots prints: for each slot its serial number,
// "Initialized: yes" and label, in this order, among other lines.
func parseSlots(out []byte) map[string][]string {
	serials := make(map[string][]string)
	var serial string
	var initialised bool
	for line := range bytes.Lines(out) {
		name, value, ok := strings.Cut(string(line), ":")
		if !ok {
			continue
		}
		value = strings.TrimSpace(value)
		switch strings.TrimSpace(name) {
		case "Serial number":
			serial, initialised = value, false
		case "Initialized":
			initialised = value == "yes"
		case "Label":
			if initialised && serial != "" && value != "" {
				serials[value] = append(serials[value], serial)
			}
			serial, initialised = "", false
		}
	}
	return serials
}

// util runs softhsm2-util on the directory.
func (d *Directory) util(args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), utilBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, "softhsm2-util", append(args, "--module", d.module)...)
	cmd.Env = d.Env()
	var complaint bytes.Buffer
	cmd.Stderr = &complaint
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("%w: no softhsm2-util in PATH: %s", ErrNotInstalled, install)
	}
	if err != nil {
		// Neither its arguments, which hold PINs, nor more than its complaint.
		return nil, fmt.Errorf("softhsm2-util %s: %w: %s", args[0], err, bytes.TrimSpace(complaint.Bytes()))
	}
	return out, nil
}

// lock takes the directory's lock file, which package hsm takes as well.
func (d *Directory) lock() (unlock func(), err error) { return lock(d.LockFile()) }

func lock(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, err
	}
	for until := time.Now().Add(lockBound); ; time.Sleep(lockPoll) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return func() { f.Close() }, nil // which lets go of the lock
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
		case time.Now().After(until):
			return nil, errors.Join(fmt.Errorf("lock %q: another process has held it for %s", path, lockBound), f.Close())
		}
	}
}

// Slots makes n tokens in the directory that m is attached to, labelled prefix-00001 and
// so on, each with PINs of its own: devices for a demo. progress, if not nil, is told
// after each how many are made. Where tokens of these labels exist it fails at the first; those
// it made before are returned beside an error.
func Slots(ctx context.Context, m *hsm.Module, prefix string, n int, progress func(made int)) ([]Token, error) {
	tokens := make([]Token, 0, n)
	for i := range n {
		t := Token{Label: fmt.Sprintf("%s-%05d", prefix, i+1), PIN: secret.Random(pinBytes), SOPIN: secret.Random(pinBytes)}
		info, err := m.InitToken(ctx, t.Label, t.SOPIN, t.PIN)
		if err != nil {
			return tokens, fmt.Errorf("make slot %d of %d: %w", i+1, n, err)
		}
		t.Serial = info.Serial
		tokens = append(tokens, t)
		if progress != nil {
			progress(i + 1)
		}
	}
	return tokens, nil
}
