package softhsm

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/devicekeys/devicekeys/hsm"
)

// confVariable names SoftHSM's configuration file in its environment.
const confVariable = "SOFTHSM2_CONF"

// maxPath keeps a line of the configuration within the 1023 bytes that SoftHSM reads
// at once.
const maxPath = 900

// A Directory is a token directory with its configuration. Tokens in different
// directories know nothing of each other. Its methods are safe for concurrent use.
type Directory struct {
	path   string // absolute
	module string
}

// NewDirectory makes path (mode 0700) with path/tokens and path/softhsm2.conf in it.
// What exists is opened as it is. The path may have spaces, but not '#' or '=', which
// SoftHSM's configuration can't express.
//
// A crash in between leaves folders without tokens, which the next call completes; the
// configuration appears whole or not at all.
func NewDirectory(path string) (*Directory, error) {
	module, err := Module()
	if err != nil {
		return nil, err
	}
	d, err := newDirectory(path, module)
	if err != nil {
		return nil, fmt.Errorf("make token directory %q: %w", path, err)
	}
	return d, nil
}

func newDirectory(path, module string) (*Directory, error) {
	if path == "" {
		return nil, errors.New("no path given")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	d := &Directory{path: path, module: module}
	if err := d.checkPath(); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(d.tokens(), 0o700); err != nil {
		return nil, err
	}
	if err := d.writeConf(); err != nil {
		return nil, err
	}
	return d, nil
}

// checkPath refuses what SoftHSM's reader of name=value lines would cut or split.
func (d *Directory) checkPath() error {
	switch {
	case len(d.path) > maxPath:
		return fmt.Errorf("it has %d bytes and SoftHSM's configuration takes %d: choose a shorter path", len(d.path), maxPath)
	case strings.ContainsAny(d.path, "#=\n\r\x00"):
		return errors.New("SoftHSM's configuration can't hold '#', '=' or line ends: choose a path without")
	}
	return nil
}

// conf is what the configuration says.
func (d *Directory) conf() []byte {
	return fmt.Appendf(nil, `# SoftHSM's configuration of this token directory; see softhsm2.conf(5).
directories.tokendir = %s
objectstore.backend = file
log.level = ERROR
slots.removable = false
slots.mechanisms = ALL
library.reset_on_fork = false
`, d.tokens())
}

// writeConf writes the configuration if there is none.
func (d *Directory) writeConf() error {
	have, err := os.ReadFile(d.Conf())
	switch {
	case err == nil && !bytes.Contains(have, []byte("\ndirectories.tokendir = "+d.tokens()+"\n")):
		// Copied or moved: whoever used it would work on the tokens of the original.
		return fmt.Errorf("its configuration is of another directory: remove %q to have it written anew", d.Conf())
	case err == nil:
		return nil
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	f, err := os.CreateTemp(d.path, ".softhsm2.conf.new-") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(d.conf())
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), d.Conf())
}

// Path is the directory's absolute path.
func (d *Directory) Path() string { return d.path }

// Conf is the path of the configuration file, for SOFTHSM2_CONF.
func (d *Directory) Conf() string { return filepath.Join(d.path, "softhsm2.conf") }

// Module is the path of the PKCS#11 module.
func (d *Directory) Module() string { return d.module }

// LockFile is for [hsm.Config]: processes that use this directory take turns at
// initialising the module and at logging in, which rewrites the token's file.
func (d *Directory) LockFile() string { return filepath.Join(d.path, "lock") }

func (d *Directory) tokens() string { return filepath.Join(d.path, "tokens") }

// Config is for [hsm.Load] after [Directory.Attach].
func (d *Directory) Config() hsm.Config {
	return hsm.Config{Path: d.module, LockFile: d.LockFile()}
}

// Env is this process's environment with SOFTHSM2_CONF set to the directory's: for
// child processes.
func (d *Directory) Env() []string {
	env := slices.DeleteFunc(os.Environ(), func(v string) bool {
		return strings.HasPrefix(v, confVariable+"=")
	})
	return append(env, confVariable+"="+d.Conf())
}

// attached is the one directory of this process, and the environment before it.
var attached struct {
	sync.Mutex
	path   string // "" for none
	before string
	wasSet bool
}

// Attach has the module of this process use the directory: it sets SOFTHSM2_CONF, which
// the module reads when [hsm.Load] initialises it. It is an error if another directory
// is attached; attaching the same one again does nothing. Child processes started
// without an environment of their own use the directory too. Tokens whose making was killed are
// removed first, as [Sweep] does.
func (d *Directory) Attach() error {
	attached.Lock()
	defer attached.Unlock()
	if attached.path == d.path {
		return nil
	}
	if attached.path != "" {
		return fmt.Errorf("attach token directory %q: this process uses %q, and a process has one: close the module and detach that first", d.path, attached.path)
	}
	if _, err := sweep(d.Conf(), d.LockFile()); err != nil {
		return fmt.Errorf("attach token directory %q: %w", d.path, err)
	}
	attached.before, attached.wasSet = os.LookupEnv(confVariable)
	if err := os.Setenv(confVariable, d.Conf()); err != nil {
		return fmt.Errorf("attach token directory %q: %w", d.path, err)
	}
	attached.path = d.path
	return nil
}

// Detach undoes Attach, after the module is closed. It does nothing if the directory isn't
// attached.
func (d *Directory) Detach() error {
	attached.Lock()
	defer attached.Unlock()
	if attached.path != d.path {
		return nil
	}
	attached.path = ""
	if !attached.wasSet {
		return os.Unsetenv(confVariable)
	}
	return os.Setenv(confVariable, attached.before)
}
