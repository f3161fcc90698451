package slots

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
)

// MakeOptions say what is made.
type MakeOptions struct {
	Realm       identity.Realm // of the chips; the rack's
	ChipIDBytes int            // 16, 24 or 32; 0 means 32
	Maker       string         // the chip maker's name in the delivery list; "" means "Development chips"
	// Progress is called after each slot, one call at a time, with how many of
	// the wanted slots are complete. nil: nobody is told.
	Progress func(done, total int)
}

// MaxSlots bounds a bench: SoftHSM's start and every new token take time that
// grows with the tokens in a directory.
const MaxSlots = 10000

// Report tells what a Create did.
type Report struct {
	Created  []string // made by this call
	Finished []string // found half made and finished
	Kept     int      // complete before
	// Abandoned are the labels of tokens that a crash left unusable, or that
	// are not this bench's: others took their place. They do no harm, and
	// only the module's own means remove them.
	Abandoned []string
	Delivery  string // path of the delivery list that names the new chips; "" where there are none
	Maker     string // path of the chip maker's public key, PEM
}

// atOnce is how many slots are made at a time. SoftHSM gains nothing from
// threads, but one slot's waits for the disk overlap another's work.
const atOnce = 4

// Create makes the bench have the first n slots, device-0001 to device-n, and
// signs a delivery list of the chips that no list names yet. Complete slots
// stay as they are; a call that was killed is finished by the next one.
func Create(ctx context.Context, dir string, rack *chip.Rack, n int, o MakeOptions) (Report, error) {
	if n < 1 || n > MaxSlots {
		return Report{}, fmt.Errorf("create device slots: %d are wanted, 1 to %d can be made", n, MaxSlots)
	}
	if o.ChipIDBytes == 0 {
		o.ChipIDBytes = 32
	}
	if o.Maker == "" {
		o.Maker = "Development chips"
	}
	if err := os.MkdirAll(filepath.Join(dir, slotsFolder), 0o700); err != nil {
		return Report{}, fmt.Errorf("create device slots: %w", err)
	}
	unlock, err := lock(dir)
	if err != nil {
		return Report{}, err
	}
	defer unlock()

	m := &making{dir: dir, rack: rack, opts: o, total: n}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(atOnce)
	for i := range n {
		name := fmt.Sprintf("device-%04d", i+1)
		g.Go(func() error { return m.slot(gctx, name) })
	}
	// Slots that were completed before an error are delivered by the next call.
	if err := g.Wait(); err != nil {
		return m.report, err
	}
	m.report.Delivery, m.report.Maker, err = deliver(ctx, dir, rack, o)
	return m.report, err
}

type making struct {
	dir   string
	rack  *chip.Rack
	opts  MakeOptions
	total int

	mu     sync.Mutex // guards the report and calls of Progress
	done   int
	report Report
}

// slot brings one slot to its end, wherever a call before left it.
func (m *making) slot(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	folder := filepath.Join(m.dir, slotsFolder, name)
	if _, err := readSlot(folder); err == nil {
		m.count(func(r *Report) { r.Kept++ })
		// A crash after slot.json leaves the SO PIN, which has served.
		return remove(filepath.Join(folder, soPINFile))
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, err := os.Stat(folder)
	half := err == nil
	if err := m.make(ctx, folder, name); err != nil {
		return fmt.Errorf("create device slot %q: %w", name, err)
	}
	m.count(func(r *Report) {
		if half {
			r.Finished = append(r.Finished, name)
		} else {
			r.Created = append(r.Created, name)
		}
	})
	return nil
}

func (m *making) count(f func(*Report)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.report)
	m.done++
	if m.opts.Progress != nil {
		m.opts.Progress(m.done, m.total)
	}
}

// make takes every step that is not taken yet. The PINs come first, so that a
// token never exists whose PIN is not kept: a crash at any later step leaves a
// token that the next call opens, or that InitToken makes anew.
func (m *making) make(ctx context.Context, folder, name string) error {
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return err
	}
	pin, err := keptPIN(filepath.Join(folder, pinFile))
	if err != nil {
		return err
	}
	soPIN, err := keptPIN(filepath.Join(folder, soPINFile))
	if err != nil {
		return err
	}
	var c *chip.Token
	label, abandoned, err := token(ctx, m.rack, m.opts.Realm.Prefix()+name, soPIN, pin, func(label string) (err error) {
		c, err = m.rack.Make(ctx, label, pin, m.opts.ChipIDBytes)
		return err
	})
	m.abandon(abandoned)
	if err != nil {
		return err
	}
	s := Slot{
		Name: name, Token: label, Realm: c.Realm(), Record: c.ID().RecordID(),
		ChipIDBytes: c.ID().Len(), Attestation: c.Attester().Public(),
	}
	s.Point = s.Attestation.Point()
	if err := c.Close(ctx); err != nil {
		return err
	}
	if s.Attestation.IsZero() {
		return fmt.Errorf("the chip in token %q has no attestation key", label)
	}
	if err := flash.Create(filepath.Join(folder, flashFile)); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	if err := writeWhole(filepath.Join(folder, slotFile), append(b, '\n')); err != nil {
		return err
	}
	// Nobody needs the security officer again; what nobody has, nobody loses.
	return remove(filepath.Join(folder, soPINFile))
}

func (m *making) abandon(labels []string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.report.Abandoned = append(m.report.Abandoned, labels...)
}

// maxTokens is how often a slot's token may be lost to a crash.
const maxTokens = 9

// token finds or makes the token of a slot and puts it to use. A token that a
// crash left unusable keeps its label for ever, so the next one is labelled
// base-2, base-3 and so on.
func token(ctx context.Context, rack *chip.Rack, base string, soPIN, pin secret.Secret, use func(label string) error) (label string, abandoned []string, err error) {
	for i := 1; ; i++ {
		label = base
		if i > 1 {
			label = fmt.Sprintf("%s-%d", base, i)
		}
		var fresh bool
		if fresh, err = rack.Init(ctx, label, soPIN, pin); err == nil {
			err = use(label)
		}
		switch {
		case err == nil:
			return label, abandoned, nil
		case fresh, ctx.Err() != nil, i == maxTokens:
			return "", abandoned, err
		case errors.Is(err, chip.ErrTaken), errors.Is(err, chip.ErrNoChip):
			abandoned = append(abandoned, label)
		default:
			return "", abandoned, err
		}
	}
}

// pinBytes of randomness make a PIN of 26 characters.
const pinBytes = 16

// keptPIN reads a PIN file, or draws a PIN and writes it.
func keptPIN(path string) (secret.Secret, error) {
	pin, err := secret.ReadFile(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return pin, err
	}
	pin = secret.Random(pinBytes)
	return pin, secret.WriteFile(path, pin)
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// writeWhole writes a file under another name and renames it: a crash leaves
// no file of this name, or a whole one, and perhaps one named path + ".new"
// that the next writeWhole replaces.
func writeWhole(path string, b []byte) error {
	fresh := path + ".new"
	f, err := os.OpenFile(fresh, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(fresh, path); err != nil {
		return err
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
