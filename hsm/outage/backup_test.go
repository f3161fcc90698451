package outage_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/hsm"
)

// stopped closes the module, as if the program were stopped, until the test is over.
func stopped(t *testing.T) {
	t.Helper()
	if err := module.Close(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		again, err := hsm.Load(ctx, hsm.Config{Path: shim.Module(), LockFile: directory.LockFile(), SignToken: &signToken})
		if err != nil {
			t.Fatal(err) // and no other test can run
		}
		module = again
	})
}

// started loads the module as a program does that is started, and opens a token.
func started(t *testing.T, c hsm.Credentials) (*hsm.Token, func(), error) {
	t.Helper()
	m, err := hsm.Load(t.Context(), hsm.Config{Path: shim.Module(), LockFile: directory.LockFile()})
	if err != nil {
		t.Fatal(err)
	}
	tok, err := m.Open(t.Context(), c, hsm.Options{})
	return tok, func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}, err
}

// command runs a command of the custodians' guide.
func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}

// What the custodians' guide says of a SoftHSM directory, done: back it up, find the
// token's file empty as a kill during a login leaves it, restore that one file, and all
// keys are there, those made since the backup too. Then restore everything.
func TestBackup(t *testing.T) {
	c := fresh(t)
	stopped(t)
	ctx := t.Context()
	spec := func(label string) hsm.Spec { return hsm.Spec{Kind: hsm.AuditKey, Label: label, Token: true} }
	tok, stop, err := started(t, c)
	if err != nil {
		t.Fatal(err)
	}
	generate(t, tok, hsm.AuditKey, "before")
	file := filepath.Join(tokenPath(t, tok.Info().Serial), "token.object")
	stop()

	backup := filepath.Join(t.TempDir(), "token.tar")
	command(t, "tar", "--create", "--file", backup, "--directory", directory.Path(), ".")
	command(t, "tar", "--compare", "--file", backup, "--directory", directory.Path())

	if tok, stop, err = started(t, c); err != nil {
		t.Fatal(err)
	}
	generate(t, tok, hsm.AuditKey, "since")
	stop()

	if err := os.Truncate(file, 0); err != nil {
		t.Fatal(err)
	}
	_, stop, err = started(t, c)
	if !errors.Is(err, hsm.ErrNoToken) {
		t.Errorf("with an empty token file: %v", err)
	}
	stop()
	member, err := filepath.Rel(directory.Path(), file)
	if err != nil {
		t.Fatal(err)
	}
	command(t, "tar", "--extract", "--file", backup, "--directory", directory.Path(), "./"+member)
	if tok, stop, err = started(t, c); err != nil {
		t.Fatalf("with its file restored: %v", err)
	}
	for _, label := range []string{"before", "since"} {
		k, err := tok.Find(ctx, spec(label))
		if err != nil {
			t.Errorf("with its file restored: %v", err)
		} else if _, err := k.Sign(ctx, make([]byte, 32)); err != nil {
			t.Errorf("with its file restored: %v", err)
		}
	}
	stop()

	if err := os.Rename(filepath.Join(directory.Path(), "tokens"), filepath.Join(t.TempDir(), "damaged")); err != nil {
		t.Fatal(err)
	}
	command(t, "tar", "--extract", "--file", backup, "--directory", directory.Path())
	command(t, "tar", "--compare", "--file", backup, "--directory", directory.Path())
	if tok, stop, err = started(t, c); err != nil {
		t.Fatalf("with everything restored: %v", err)
	}
	if _, err := tok.Find(ctx, spec("before")); err != nil {
		t.Errorf("with everything restored: %v", err)
	}
	if _, err := tok.Find(ctx, spec("since")); !errors.Is(err, hsm.ErrNoKey) {
		t.Errorf("a key made since the backup, with everything restored: %v", err)
	}
	stop()
}
