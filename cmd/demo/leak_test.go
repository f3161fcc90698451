package main_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// needle is a secret whose bytes must be nowhere outside its token or file.
type needle struct {
	name  string
	forms [][]byte
}

// newNeedle looks for a key raw and in the ways that programs print bytes.
func newNeedle(name string, key []byte) needle {
	x := hex.EncodeToString(key)
	return needle{name, [][]byte{
		key, []byte(x), []byte(strings.ToUpper(x)),
		[]byte(base64.RawStdEncoding.EncodeToString(key)), []byte(base64.RawURLEncoding.EncodeToString(key)),
		[]byte(strings.Trim(fmt.Sprint(key), "[]")),
	}}
}

// haystack searches texts for all needles.
type haystack struct {
	t       *testing.T
	needles []needle
	found   []string
	read    int
}

func (h *haystack) search(where string, text []byte) {
	h.read += len(text)
	for _, n := range h.needles {
		for _, f := range n.forms {
			if bytes.Contains(text, f) {
				h.found = append(h.found, n.name+" in "+where)
				break
			}
		}
	}
}

// memory searches the writable memory of a process: what a core dump of it
// would hold.
func (h *haystack) memory(name string, pid int) error {
	maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
	if err != nil {
		return err
	}
	mem, err := os.Open(fmt.Sprintf("/proc/%d/mem", pid))
	if err != nil {
		return err
	}
	defer mem.Close()
	lines := bufio.NewScanner(bytes.NewReader(maps))
	read := 0
	for lines.Scan() {
		var from, to uint64
		var mode string
		if _, err := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &mode); err != nil {
			return err
		}
		if !strings.HasPrefix(mode, "rw") {
			continue
		}
		b := make([]byte, to-from)
		n, err := mem.ReadAt(b, int64(from))
		if err != nil && n == 0 {
			continue // reserved, never written
		}
		read += n
		h.search("the memory of "+name, b[:n])
	}
	if read == 0 {
		return fmt.Errorf("no memory of process %d could be read", pid)
	}
	return nil
}

// No long-term key's bytes outside a token (invariant 6): the whole demo with
// keys that are known here, and then a search of everything it wrote, said or
// kept in memory.
func TestNoKeyLeaves(t *testing.T) {
	t.Parallel()
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	bin := programs(t, "devicekeys_import")
	known := t.TempDir()
	keys := map[string][]byte{}
	for _, label := range []string{"dev-master-1", "dev-identity-signing", "dev-submission", "dev-audit", "dev-station-ca", "dev-device-ca", "dev-pool-seal", "dev-pool-wrap-symmetric"} {
		k := make([]byte, 32)
		if _, err := rand.Read(k); err != nil {
			t.Fatal(err)
		}
		k[0] &= 0x7f // below the order of P-256
		keys[label] = k
		if err := os.WriteFile(filepath.Join(known, label), []byte(hex.EncodeToString(k)), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(t.TempDir(), "plant")
	defer perform(t, bin, nil, "--stop", "--dir", dir)
	printed := perform(t, bin, []string{"DEVICEKEYS_IMPORT=" + known}, "--devices", "3", "--keep", "--dir", dir)

	h := &haystack{t: t}
	for label, k := range keys {
		h.needles = append(h.needles, newNeedle(label, k))
	}
	purposeKey := kdf1(t, keys["dev-master-1"], keypackage.PurposeContext(identity.Development, 1, 1, "channel"))
	h.needles = append(h.needles, newNeedle("purpose key", purposeKey))
	h.needles = append(h.needles, deviceKeys(t, bin, dir, purposeKey)...)
	pins := h.secretFiles(dir)

	h.search("what the demo prints", []byte(printed))
	h.files(dir, pins)
	for _, server := range []string{"spp", "sequencer", "registry", "deviceservice"} {
		h.metrics(filepath.Join(dir, "etc", server+".yaml"), server)
	}
	h.dumps(dir)
	for _, f := range h.found {
		t.Error(f)
	}
	h.found = nil
	if err := h.processes(dir); err != nil {
		if os.Geteuid() == 0 {
			t.Fatal(err)
		}
		t.Logf("LEFT OUT: the servers' memory was not searched, which needs root here: %v", err)
	} else {
		modules := h.residue(dir, purposeKey)
		t.Logf("left by the module in a process that makes the same calls raw: %d kinds of keys", len(modules))
		for _, f := range h.found {
			if name, _, _ := strings.Cut(f, " in the memory"); modules[kind(name)] {
				t.Logf("THE MODULE'S OWN: %s, and in the control's too", f)
			} else {
				t.Error(f)
			}
		}
	}
	if h.read < 1<<20 {
		t.Errorf("only %d bytes were searched", h.read)
	}
	t.Logf("searched %d MiB for %d secrets", h.read>>20, len(h.needles))
	h.control(keys["dev-master-1"])
}

// control plants a key in every kind of place and sees it found.
func (h *haystack) control(key []byte) {
	for i, planted := range [][]byte{key, []byte("key=" + hex.EncodeToString(key)), fmt.Appendf(nil, "%v", key), []byte(base64.StdEncoding.EncodeToString(key))} {
		h.found = nil
		h.search("a planted text", append(append([]byte("before "), planted...), " after"...))
		if len(h.found) == 0 {
			h.t.Errorf("planted text %d was not found: this test finds nothing", i)
		}
	}
	cmd := exec.Command("sleep", "60")
	cmd.Env = []string{"PLANTED=" + hex.EncodeToString(key)}
	if err := cmd.Start(); err != nil {
		h.t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	h.found = nil
	if err := h.memory("a process with a planted key", cmd.Process.Pid); err == nil && len(h.found) == 0 {
		h.t.Error("a key planted in a process's memory was not found: this test finds nothing there")
	}
}

// kdf1 is KDF 1 in software (docs/formats.md §7).
func kdf1(t *testing.T, key, context []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(context)
	return kdf1FromDigest(t, key, sum[:])
}

func kdf1FromDigest(t *testing.T, key, digest []byte) []byte {
	t.Helper()
	block, err := aes.NewCipher(key)
	if err != nil {
		t.Fatal(err)
	}
	out := make([]byte, 32)
	cipher.NewCBCEncrypter(block, make([]byte, 16)).CryptBlocks(out, digest)
	return out
}

// deviceKeys derives the devices' keys from what the devices say of themselves.
func deviceKeys(t *testing.T, bin, dir string, purposeKey []byte) []needle {
	t.Helper()
	var all []needle
	for i := range 3 {
		out, err := exec.Command(filepath.Join(bin, "device"), "show", "--json", "--devices", filepath.Join(dir, "devices"), fmt.Sprintf("device-%04d", i+1)).Output()
		if err != nil {
			t.Fatal(err)
		}
		var d struct {
			Record     identity.RecordID
			Identity   string
			Generation identity.Generation
		}
		if err := json.Unmarshal(out, &d); err != nil {
			t.Fatal(err)
		}
		imei, err := identity.ParseIMEI(d.Identity)
		if err != nil {
			t.Fatal(err)
		}
		key := keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}
		derived := kdf1(t, purposeKey, keypackage.DeviceKeyContext(identity.Development, key, imei, d.Generation, d.Record))
		all = append(all, newNeedle(fmt.Sprintf("device key %d", i+1), derived))
	}
	return all
}

// secretFiles adds PINs and passwords to what is looked for, and gives their
// files, the only places where they may be.
func (h *haystack) secretFiles(dir string) map[string]bool {
	files := map[string]bool{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name := e.Name()
		if name == "pgpass" {
			files[path] = true
		}
		if strings.HasSuffix(name, ".pin") || name == "pin" || strings.HasSuffix(name, "-so") || strings.HasSuffix(name, ".password") {
			files[path] = true
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if s := bytes.TrimSpace(b); len(s) >= 12 {
				h.needles = append(h.needles, needle{"the secret of " + name, [][]byte{s}})
			}
		}
		return nil
	})
	if err != nil {
		h.t.Fatal(err)
	}
	if len(files) < 5 {
		h.t.Errorf("only %d PIN and password files were found", len(files))
	}
	return files
}

// files searches every file but token directories, which are the tokens
// themselves, and the secrets' own.
func (h *haystack) files(dir string, except map[string]bool) {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() && e.Name() == "tokens" {
			return fs.SkipDir
		}
		if !e.Type().IsRegular() || except[path] {
			return nil
		}
		b, err := os.ReadFile(path)
		if err == nil {
			h.search(strings.TrimPrefix(path, dir), b)
		} else if os.IsNotExist(err) {
			err = nil // Postgres removes files of its own
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

func (h *haystack) metrics(config, server string) {
	b, err := os.ReadFile(config)
	if err != nil {
		h.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), "metrics_listen: ")
	address, _, _ := strings.Cut(rest, "\n")
	res, err := http.Get("http://" + address + "/metrics")
	if err != nil {
		h.t.Fatal(err)
	}
	defer res.Body.Close()
	page, err := io.ReadAll(res.Body)
	if err != nil || !bytes.Contains(page, []byte("devicekeys_")) {
		h.t.Fatalf("metrics of %s: %d bytes, %v", server, len(page), err)
	}
	h.search("the metrics of "+server, page)
}

func (h *haystack) dumps(dir string) {
	s, err := postgres.Attach(h.t.Context(), filepath.Join(dir, "postgres"))
	if err != nil {
		h.t.Fatal(err)
	}
	defer s.Detach()
	for _, database := range []string{"pool", "records", "registry"} {
		var b bytes.Buffer
		if err := s.Dump(context.Background(), database, &b); err != nil {
			h.t.Fatal(err)
		}
		h.search("the dump of database "+database, b.Bytes())
		// A dump writes bytea in hexadecimal, which is one of the forms.
		if b.Len() < 1000 {
			h.t.Errorf("the dump of database %s has %d bytes", database, b.Len())
		}
	}
}

func (h *haystack) processes(dir string) error {
	b, err := os.ReadFile(filepath.Join(dir, "running.json"))
	if err != nil {
		return err
	}
	var running struct {
		Servers []struct {
			Name string
			PID  int
		}
	}
	if err := json.Unmarshal(b, &running); err != nil || len(running.Servers) != 4 {
		return fmt.Errorf("running.json: %d servers, %v", len(running.Servers), err)
	}
	keys := h.needles
	defer func() { h.needles = keys }()
	h.needles = nil
	for _, n := range keys {
		// PINs and passwords are in the memory of who logs in with them.
		if !strings.HasPrefix(n.name, "the secret of ") {
			h.needles = append(h.needles, n)
		}
	}
	for _, s := range running.Servers {
		if err := h.memory(s.Name+" (process "+strconv.Itoa(s.PID)+")", s.PID); err != nil {
			return err
		}
	}
	return nil
}
