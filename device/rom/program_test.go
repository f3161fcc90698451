package rom_test

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/untested"
)

// strict are the flags under which the C code is clean.
var strict = []string{
	"-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-Wconversion", "-Wsign-conversion",
	"-Wshadow", "-Wcast-align", "-Wstrict-prototypes",
}

// sanitizers end the program at the first read out of bounds or undefined behaviour.
var sanitizers = []string{"-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"}

// answerTimeout bounds one answer of the C program, which takes it less than a
// millisecond; a machine that is busy for this long is not working.
const answerTimeout = time.Minute

// binaries is the folder of what is built, one for the test process.
var binaries string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if binaries, err = os.MkdirTemp("", "rom-test-"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(binaries) // a kill right here leaves a folder in the system's place for them
		return m.Run()
	}())
}

// compiler is the one that cgo would take, as deploy/setup checks it.
var compiler = sync.OnceValues(func() ([]string, error) {
	out, err := exec.Command("go", "env", "CC").Output()
	if err != nil {
		return nil, fmt.Errorf("go env CC: %w", err)
	}
	cc := strings.Fields(string(out))
	if len(cc) == 0 {
		return nil, fmt.Errorf("go env CC names no compiler")
	}
	_, err = exec.LookPath(cc[0])
	return cc, err
})

func compile(cc []string, arguments ...string) error {
	c := exec.Command(cc[0], append(cc[1:len(cc):len(cc)], arguments...)...)
	if out, err := c.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", strings.Join(c.Args, " "), err, out)
	}
	return nil
}

// verifier are the files of the C verifier.
func verifier() ([]string, error) {
	files, err := filepath.Glob("c/*.c")
	if err == nil && len(files) == 0 {
		err = errors.New("there are no C files in the folder c")
	}
	return files, err
}

// try tells whether a program of one line builds.
func try(cc []string, name, source string, flags ...string) error {
	file := filepath.Join(binaries, name+".c")
	if err := os.WriteFile(file, []byte(source+"\nint main(void) { return 0; }\n"), 0o600); err != nil {
		return err
	}
	return compile(cc, append([]string{file, "-o", filepath.Join(binaries, name)}, flags...)...)
}

// lacking skips the test and says what to install; on a CI machine, where
// nothing may be skipped unseen, it fails.
func lacking(t testing.TB, what string, err error) {
	t.Helper()
	untested.Skip(t, "the C verifier for boot ROMs: %s; deploy/setup does it: %v", what, err)
}

// needs gives a compiler that has the sanitizers.
func needs(t testing.TB) []string {
	t.Helper()
	cc, err := compiler()
	if err != nil {
		lacking(t, "install a C compiler (Debian: gcc and libc6-dev)", err)
	}
	if err := hasSanitizers(); err != nil {
		lacking(t, "install the compiler's sanitizers (Debian: they come with gcc; elsewhere libasan and libubsan)", err)
	}
	return cc
}

var hasSanitizers = sync.OnceValue(func() error {
	cc, err := compiler()
	if err != nil {
		return err
	}
	return try(cc, "sanitizers", "", sanitizers...)
})

var hasCrypto = sync.OnceValue(func() error {
	cc, err := compiler()
	if err != nil {
		return err
	}
	return try(cc, "crypto", "#include <openssl/core_names.h>", "-lcrypto") // of OpenSSL 3
})

var driver = sync.OnceValues(func() (string, error) {
	cc, err := compiler()
	if err != nil {
		return "", err
	}
	file := filepath.Join(binaries, "driver")
	arguments := append(append([]string{}, strict...), sanitizers...)
	sources, err := verifier()
	if err != nil {
		return "", err
	}
	return file, compile(cc, append(append(arguments, sources...), "c/test/openssl.c", "c/test/driver.c", "-o", file, "-lcrypto")...)
})

// program is the C verifier at work. One test uses it at a time.
type program struct {
	cmd    *exec.Cmd
	in     io.WriteCloser
	out    *bufio.Reader
	stderr bytes.Buffer
}

// start runs the test program until the test ends; that it ended well is part of the test.
func start(t testing.TB) *program {
	t.Helper()
	needs(t)
	if err := hasCrypto(); err != nil {
		lacking(t, "install the headers of OpenSSL 3's libcrypto (Debian: libssl-dev)", err)
	}
	file, err := driver()
	if err != nil {
		t.Fatal(err)
	}
	p := &program{cmd: exec.Command(file)}
	p.cmd.Stderr = &p.stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.in.Close()
		overdue := time.AfterFunc(answerTimeout, func() { p.cmd.Process.Kill() })
		defer overdue.Stop()
		if err := p.cmd.Wait(); err != nil { // a leak is found here
			t.Errorf("C program: %v\n%s", err, p.stderr.String())
		}
	})
	return p
}

// fataler is what testing and rapid have in common.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// ask sends one request (c/test/driver.c) and gives the result's code and what came with it.
func (p *program) ask(t fataler, op byte, fields ...[]byte) (result, []byte) {
	t.Helper()
	request := []byte{op}
	for _, f := range fields {
		request = append(binary.BigEndian.AppendUint32(request, uint32(len(f))), f...)
	}
	overdue := time.AfterFunc(answerTimeout, func() { p.cmd.Process.Kill() })
	defer overdue.Stop()
	_, err := p.in.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(request))), request...))
	var head [4]byte
	if err == nil {
		_, err = io.ReadFull(p.out, head[:])
	}
	answer := make([]byte, binary.BigEndian.Uint32(head[:]))
	if err == nil {
		_, err = io.ReadFull(p.out, answer)
	}
	if err != nil || len(answer) < 4 {
		p.cmd.Process.Kill() // what it wrote to stderr stands in the cleanup's error
		t.Fatalf("C program gave no answer to %q: %v", op, err)
	}
	return result(binary.BigEndian.Uint32(answer)), answer[4:]
}

// result is a dkrom_result.
type result uint32

// The results of c/devicekeys_rom.h that tests name.
const (
	resultOK        result = 0x3c6da5d7
	resultData      result = 0x4da4f9fc
	resultBackup    result = 0x656412a9
	resultArgument  result = 0x7a97c643
	resultForm      result = 0x27ac435a
	resultKey       result = 0x0512bd13
	resultChip      result = 0xc3e1b258
	resultRealm     result = 0x38d048ec
	resultSignature result = 0x8963dc6e
	resultClaims    result = 0xccea2645
	resultManifest  result = 0xde08caa1
)

var resultNames = map[result]string{
	resultOK: "OK", resultData: "DATA", resultBackup: "BACKUP", resultArgument: "ARGUMENT", resultForm: "FORM", resultKey: "KEY", resultChip: "CHIP",
	resultRealm: "REALM", resultSignature: "SIGNATURE", resultClaims: "CLAIMS", resultManifest: "MANIFEST",
}

func (r result) String() string {
	if n, ok := resultNames[r]; ok {
		return "DKROM_" + n
	}
	return fmt.Sprintf("result %08x", uint32(r))
}
