package softhsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// shimSource stands in a folder without Go files: beside some it would be compiled into
// them, or break their build where cgo is off.
//
//go:embed shim/shim.c
var shimSource []byte

var shimFunction = regexp.MustCompile(`(?m)^\t[FWS]\((C_\w+), \d\)`)

// shimFunctions are the functions in the order of the control file, taken from the
// source, so that there is one list of them.
var shimFunctions = sync.OnceValue(func() []string {
	var names []string
	for _, m := range shimFunction.FindAllSubmatch(shimSource, -1) {
		names = append(names, string(m[1]))
	}
	return names
})

// compileBound bounds one run of the compiler: a third of a second, seconds where the
// machine is busy.
const compileBound = time.Minute

// compilers are tried in this order where $CC isn't set.
var compilers = []string{"cc", "gcc", "clang"}

// errNoCompiler says what to do about it.
var errNoCompiler = errors.New("no C compiler: install one (package gcc or clang), or set $CC")

func compiler() ([]string, error) {
	// $CC may have flags in it, as for make.
	if cc := strings.Fields(os.Getenv("CC")); len(cc) > 0 {
		if _, err := exec.LookPath(cc[0]); err != nil {
			return nil, fmt.Errorf("%w: $CC is %q: %w", errNoCompiler, cc[0], err)
		}
		return cc, nil
	}
	for _, c := range compilers {
		if _, err := exec.LookPath(c); err == nil {
			return []string{c}, nil
		}
	}
	return nil, errNoCompiler
}

// compiled keeps what was compiled, by the name of its file: once is enough for a
// process.
var compiled struct {
	sync.Mutex
	modules map[string][]byte
}

// compileShim puts the compiled shim into dir and gives its path. Its name tells the
// source and the compiler, so that what is there is what would be made. The file appears
// whole or not at all; a crash leaves one with a name that is never asked for.
func compileShim(ctx context.Context, dir string) (string, error) {
	cc, err := compiler()
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(append([]byte(strings.Join(cc, " ")+"\n"), shimSource...))
	name := fmt.Sprintf("devicekeys-shim-%x.so", sum[:8])
	path := filepath.Join(dir, name)
	if regular(path) {
		return path, nil
	}
	compiled.Lock()
	defer compiled.Unlock()
	module := compiled.modules[name]
	if module == nil {
		if module, err = compile(ctx, cc); err != nil {
			return "", err
		}
		if compiled.modules == nil {
			compiled.modules = map[string][]byte{}
		}
		compiled.modules[name] = module
	}
	f, err := os.CreateTemp(dir, ".devicekeys-shim-*")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name()) // gone already if all went well
	_, err = f.Write(module)
	if err := errors.Join(err, f.Chmod(0o500), f.Close()); err != nil {
		return "", err
	}
	return path, os.Rename(f.Name(), path)
}

// compile gives the shim as a shared library.
func compile(ctx context.Context, cc []string) (module []byte, err error) {
	dir, err := os.MkdirTemp("", "devicekeys-shim-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "shim.so")
	ctx, cancel := context.WithTimeout(ctx, compileBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, cc[0], slices.Concat(cc[1:], []string{"-std=c99", "-O2", "-fPIC", "-shared", "-fvisibility=hidden",
		"-Wall", "-Wextra", "-Werror", "-pthread", "-o", path, "-x", "c", "-", "-ldl"})...)
	cmd.Stdin = bytes.NewReader(shimSource)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile it with %s: %w: %s", cc[0], err, bytes.TrimSpace(out))
	}
	return os.ReadFile(path)
}

// makeControl makes and maps a control file. A crash leaves a file of which nobody
// knows.
func makeControl(dir string) (path string, state *shimControl, err error) {
	f, err := os.CreateTemp(dir, "shim-control-*") // mode 0600
	if err != nil {
		return "", nil, err
	}
	defer f.Close() // the mapping stays
	size := int(unsafe.Sizeof(shimControl{}))
	if err := f.Truncate(int64(size)); err != nil {
		return "", nil, errors.Join(err, os.Remove(f.Name()))
	}
	mem, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return "", nil, errors.Join(fmt.Errorf("map %q: %w", f.Name(), err), os.Remove(f.Name()))
	}
	state = (*shimControl)(unsafe.Pointer(&mem[0]))
	state.version.Store(shimVersion)
	state.functions.Store(uint64(len(shimFunctions())))
	state.magic.Store(shimMagic)
	return f.Name(), state, nil
}
