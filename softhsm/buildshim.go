package softhsm

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
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
//go:embed shim/*.c shim/*.h
var shimSource embed.FS

// shimFile is a file of the source.
type shimFile struct {
	name string
	text []byte
}

// shimFiles are the source's files in the order of their names.
var shimFiles = sync.OnceValues(func() ([]shimFile, error) {
	var files []shimFile
	all, err := shimSource.ReadDir("shim")
	if err != nil {
		return nil, err
	}
	for _, f := range all {
		text, err := shimSource.ReadFile("shim/" + f.Name())
		if err != nil {
			return nil, err
		}
		files = append(files, shimFile{f.Name(), text})
	}
	return files, nil
})

var shimFunction = regexp.MustCompile(`(?m)^\t[FWS]\((C_\w+), \d\)`)

// shimFunctions are the functions in the order of the control file, taken from the
// source, so that there is one list of them.
var shimFunctions = sync.OnceValue(func() []string {
	var names []string
	text, _ := shimSource.ReadFile("shim/functions.h") // without it the shim doesn't compile
	for _, m := range shimFunction.FindAllSubmatch(text, -1) {
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
	files, err := shimFiles()
	if err != nil {
		return "", err
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%q\n", cc)
	for _, f := range files {
		fmt.Fprintf(sum, "%q %q\n", f.name, f.text)
	}
	name := fmt.Sprintf("devicekeys-shim-%x.so", sum.Sum(nil)[:8])
	path := filepath.Join(dir, name)
	if regular(path) {
		return path, nil
	}
	compiled.Lock()
	defer compiled.Unlock()
	module := compiled.modules[name]
	if module == nil {
		if module, err = compile(ctx, cc, files); err != nil {
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

// compile gives the shim as a shared library. A crash leaves a folder in the system's place
// for them, of which nobody knows.
func compile(ctx context.Context, cc []string, files []shimFile) (module []byte, err error) {
	dir, err := os.MkdirTemp("", "devicekeys-shim-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	path := filepath.Join(dir, "shim.so")
	args := slices.Concat(cc[1:], []string{"-std=c99", "-D_POSIX_C_SOURCE=200809L", "-O2", "-fPIC", "-shared", "-fvisibility=hidden",
		"-Wall", "-Wextra", "-Werror", "-pthread", "-o", path})
	for _, f := range files {
		file := filepath.Join(dir, f.name)
		if err := os.WriteFile(file, f.text, 0o600); err != nil {
			return nil, err
		}
		if strings.HasSuffix(f.name, ".c") {
			args = append(args, file)
		}
	}
	ctx, cancel := context.WithTimeout(ctx, compileBound)
	defer cancel()
	cmd := exec.CommandContext(ctx, cc[0], append(args, "-ldl")...)
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
