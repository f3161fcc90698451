package rom_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/identity/identitytest"
	"github.com/devicekeys/devicekeys/statement"
	"github.com/devicekeys/devicekeys/untested"
)

// FuzzROM gives C and Go the same certificate, or the same claims with a good
// signature: they take the same and refuse the same. Choice: 0x01 sign, then
// type and length of chip ID.
func FuzzROM(f *testing.F) {
	p, rom := start(f), newSigner(f, goldenKey)
	hash := rom.Public().Hash()
	for _, m := range identitytest.EveryLayout(f, rom) {
		choice := byte(m.Claims.Subject.Type()-1)<<1 | byte(m.Claims.ChipID.Len()/8-2)<<3
		f.Add(choice, m.Claims.ChipID.Bytes(), m.Raw)
		f.Add(choice|1, m.Claims.ChipID.Bytes(), m.Coded)
	}
	chip := []byte(strings.Repeat("\xc1", 16))
	for _, claims := range identitytest.BadClaims() {
		f.Add(byte(1), chip, claims)
		f.Add(byte(1|3<<1), chip, claims)
	}
	f.Fuzz(func(t *testing.T, choice byte, chip, b []byte) {
		if len(b) > 2*identity.MaxCertificate || len(chip) > 64 {
			return
		}
		me := self{chip, identity.Realm(1 + choice>>6&1), identity.Type(1 + choice>>1&3), rom.Public().Point(), hash[:]}
		if choice&1 != 0 {
			var err error
			if b, err = statement.Sign(t.Context(), rom, statement.IdentityCertificate, b); err != nil {
				return // no statement has such a payload
			}
		}
		r, out := p.ask(t, 'V', me.fields(b)...)
		c, err := identity.ParseCertificate(b, rom.Public())
		if goes := me.accepts(b, rom.Public()); goes != (r == resultOK) {
			t.Fatalf("C says %s, Go takes it: %v (%v)\n%x", r, goes, err, b)
		}
		if r == resultOK && readFields(t, out) != fieldsOf(c.Claims, c.ClaimsBytes()) {
			t.Fatalf("fields differ: %+v, Go has %+v", readFields(t, out), fieldsOf(c.Claims, c.ClaimsBytes()))
		}
	})
}

// seeds writes the inputs of c/test/fuzz.c: one byte of choice, then a certificate of each layout, or a package.
func seeds(t *testing.T) (folder string, files []string) {
	t.Helper()
	folder = t.TempDir()
	add := func(choice byte, b []byte) {
		file := filepath.Join(folder, fmt.Sprintf("%02d", len(files)))
		if err := os.WriteFile(file, append([]byte{choice}, b...), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, file)
	}
	id, pkg := golden(t, "../../identity/testdata/golden.json"), golden(t, "../../keypackage/testdata/golden.json")
	add(0, id["certificate"])
	add(0x20, id["certificate"]) // no signature holds
	add(0x40, id["certificate"]) // another key's
	add(0, pkg["backup"])
	rom := newSigner(t, goldenKey)
	for _, m := range identitytest.EveryLayout(t, rom) {
		c := m.Claims
		chip := unhex(t, strings.Repeat("00112233445566778899aabbccddeeff", 2))[:c.ChipID.Len()]
		var err error
		if c.ChipID, err = identity.ParseChipID(chip); err != nil {
			t.Fatal(err)
		}
		_, raw := sign(t, rom, c)
		add(byte(c.Subject.Type()-1)|byte(len(chip)/8-2)<<2|byte(c.Realm-1)<<4, raw)
	}
	return folder, files
}

func sources(t *testing.T) []string {
	t.Helper()
	files, err := verifier()
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// fuzzRounds of mutated inputs are tried by every test run, the same each time: about two seconds.
const fuzzRounds = 200000

// The harness without libFuzzer: bounded, deterministic, under the sanitizers.
func TestFuzzStandalone(t *testing.T) {
	t.Parallel()
	cc := needs(t)
	_, files := seeds(t)
	bin := filepath.Join(t.TempDir(), "fuzz")
	arguments := append(append([]string{}, strict...), sanitizers...)
	if err := compile(cc, append(append(arguments, sources(t)...), "c/test/fuzz.c", "c/test/standalone.c", "-o", bin)...); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), bin, append([]string{strconv.Itoa(fuzzRounds)}, files...)...).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// The same by libFuzzer, where clang has it; ROM_FUZZ_TIME in seconds runs it longer.
func TestFuzzLibFuzzer(t *testing.T) {
	t.Parallel()
	clang, err := exec.LookPath("clang")
	if err != nil {
		untested.Skip(t, "the C verifier under libFuzzer: install clang and libclang-rt-dev, as deploy/setup does in CI; TestFuzzStandalone runs the same target")
	}
	if err := try([]string{clang}, "clang", "", sanitizers...); err != nil {
		untested.Skip(t, "the C verifier under libFuzzer: clang lacks its sanitizers, install libclang-rt-dev: %v", err)
	}
	folder, _ := seeds(t)
	bin := filepath.Join(t.TempDir(), "fuzz")
	arguments := append(append([]string{}, strict...), "-g", "-O1", "-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=all")
	if err := compile([]string{clang}, append(append(arguments, sources(t)...), "c/test/fuzz.c", "-o", bin)...); err != nil {
		t.Fatal(err)
	}
	limit := []string{"-runs=50000"}
	if s := os.Getenv("ROM_FUZZ_TIME"); s != "" {
		limit = []string{"-max_total_time=" + s}
	}
	cmd := exec.CommandContext(t.Context(), bin, append(limit, "-seed=1", "-max_len=600", "-timeout=20", folder)...)
	cmd.Dir = t.TempDir() // a finding is written there, and printed
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	lines := strings.Split(strings.TrimSpace(string(out)), "\n")
	t.Log(lines[len(lines)-1])
}

// stackBound is the sum over all functions on a 64-bit host, in bytes: more
// than any chain of calls can use. The header says what a Cortex-M needs.
const stackBound = 1200

// Compilers that are there find nothing; frames are of constant size and small.
func TestBuild(t *testing.T) {
	t.Parallel()
	cc := needs(t)
	folder := t.TempDir()
	for name, c := range map[string][]string{"cc": cc, "clang": {"clang"}, "arm": {"arm-none-eabi-gcc", "-mcpu=cortex-m0plus", "-mthumb"}} {
		if _, err := exec.LookPath(c[0]); err != nil {
			t.Logf("%s is not installed", c[0])
			continue
		}
		var usage []byte
		for _, source := range sources(t) {
			object := filepath.Join(folder, name+"-"+filepath.Base(source)+".o")
			for _, level := range []string{"-O0", "-O2", "-Os"} {
				if err := compile(c, append(append([]string{}, strict...), level, "-ffreestanding", "-fstack-usage", "-c", source, "-o", object)...); err != nil {
					if strings.Contains(err.Error(), "unknown argument") && strings.Contains(err.Error(), "stack-usage") {
						continue // a clang before 16
					}
					t.Error(err)
				}
			}
			of, err := os.ReadFile(strings.TrimSuffix(object, ".o") + ".su")
			if err != nil {
				break
			}
			usage = append(usage, of...)
		}
		if usage == nil {
			continue
		}
		sum := 0
		for _, m := range regexp.MustCompile(`(?m)^(\S+)\t(\d+)\t(\S+)$`).FindAllStringSubmatch(string(usage), -1) {
			n, _ := strconv.Atoi(m[2])
			sum += n
			if m[3] != "static" {
				t.Errorf("%s: stack of %s is %s", name, m[1], m[3])
			}
		}
		if sum == 0 || sum > stackBound {
			t.Errorf("%s: %d bytes of stack over all functions, at most %d are allowed:\n%s", name, sum, stackBound, usage)
		}
	}
}
