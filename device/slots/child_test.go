package slots_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"testing"

	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/slots"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
)

// A process has one token directory, and a test of kills needs processes: the
// test binary is its own child, with the act in its environment.
const (
	childAct = "SLOTS_TEST_ACT"
	childDir = "SLOTS_TEST_DIR"
	childN   = "SLOTS_TEST_N"
)

func TestMain(m *testing.M) {
	if act := os.Getenv(childAct); act != "" {
		if err := beChild(context.Background(), act); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(softhsm.Main(m))
}

// child prepares a child process.
func child(ctx context.Context, act, dir string, n int) *exec.Cmd {
	c := exec.CommandContext(ctx, os.Args[0])
	c.Env = append(os.Environ(), childAct+"="+act, childDir+"="+dir, childN+"="+strconv.Itoa(n))
	return c
}

func beChild(ctx context.Context, act string) (err error) {
	dir := os.Getenv(childDir)
	n, err := strconv.Atoi(os.Getenv(childN))
	if err != nil {
		return err
	}
	d, err := softhsm.NewDirectory(dir)
	if err != nil {
		return err
	}
	if err := d.Attach(); err != nil {
		return err
	}
	r, err := chip.OpenRack(ctx, d.Module(), d.LockFile(), identity.Development)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	if act == "hello" {
		return greetAll(ctx, dir, r)
	}
	report, err := slots.Create(ctx, dir, r, n, slots.MakeOptions{Realm: identity.Development})
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(report)
}

// greetAll has every device say hello, and checks it with the slot's key.
func greetAll(ctx context.Context, dir string, r *chip.Rack) error {
	s, err := slots.Open(ctx, dir, r, slots.Options{})
	if err != nil {
		return err
	}
	for _, name := range s.Names() {
		if err := greet(ctx, s, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func greet(ctx context.Context, s *slots.Slots, name string) (err error) {
	slot, err := s.Slot(name)
	if err != nil {
		return err
	}
	d, err := s.Device(ctx, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close(ctx)) }()
	if err := d.WriteROM(ctx, slot.Attestation); err != nil { // any key serves as ROM key here
		return err
	}
	raw, err := d.Hello(ctx, keypackage.SuiteAttested)
	if err != nil {
		return err
	}
	_, err = statement.Open(raw, statement.Attestation, slot.Attestation, keypackage.MaxHello)
	return err
}
