package main_test

import (
	"bytes"
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
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
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deploy/postgres"
	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/deviceservice/client"
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
	found   []hit
	read    int
}

// hit is a needle that was found.
type hit struct {
	needle string
	place  place // in a process's memory; else empty
	where  string
}

func (f hit) String() string {
	if f.place == "" {
		return f.needle + " in " + f.where
	}
	return fmt.Sprintf("%s in %s, %s", f.needle, f.where, f.place)
}

func (h *haystack) search(where string, text []byte) { h.searchIn("", where, text) }

func (h *haystack) searchIn(p place, where string, text []byte) {
	h.read += len(text)
	for _, n := range h.needles {
		for _, f := range n.forms {
			if bytes.Contains(text, f) {
				h.found = append(h.found, hit{n.name, p, where})
				break
			}
		}
	}
}

// No long-term key's bytes outside a token (invariant 6): the whole demo with
// keys that are known here, and then a search of everything it wrote, said or
// kept in memory.
func TestNoKeyLeaves(t *testing.T) {
	t.Parallel()
	oneAtATime.Lock()
	defer oneAtATime.Unlock()
	bin := programs.Build(t, "devicekeys_import")
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
	t.Run("memory", func(t *testing.T) { h.processes(t, dir, purposeKey) })
	if h.read < 1<<20 {
		t.Errorf("only %d bytes were searched", h.read)
	}
	t.Logf("searched %d MiB for %d secrets", h.read>>20, len(h.needles))
	h.plant(keys["dev-master-1"])
}

// plant hides a key in texts in every form and sees it found. TestMemorySearch does so in memory.
func (h *haystack) plant(key []byte) {
	for i, planted := range [][]byte{key, []byte("key=" + hex.EncodeToString(key)), fmt.Appendf(nil, "%v", key), []byte(base64.StdEncoding.EncodeToString(key))} {
		h.found = nil
		h.search("a planted text", append(append([]byte("before "), planted...), " after"...))
		if len(h.found) == 0 {
			h.t.Errorf("planted text %d was not found: this test finds nothing", i)
		}
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

// deviceKeys derives the devices' keys from what the devices say of themselves, those of earlier generations too. That
// they are the devices' is shown at the device service, which has just used the present ones when its memory is searched.
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
		for g := identity.Generation(1); g <= d.Generation; g++ {
			derived := kdf1(t, purposeKey, keypackage.DeviceKeyContext(identity.Development, key, imei, g, d.Record))
			all = append(all, newNeedle(fmt.Sprintf("device key %d of generation %d", i+1, g), derived))
			if g == d.Generation {
				openChannel(t, dir, channel.Hello{Suite: channel.SuiteNoise, Realm: identity.Development, Key: key, Identity: imei, Generation: g}, derived)
			}
		}
	}
	if len(all) != 4 {
		t.Errorf("%d keys of 3 devices, of which one was provisioned anew", len(all))
	}
	return all
}

// channelWait bounds the opening of a channel.
const channelWait = time.Minute

// openChannel speaks to the device service as a device with a key that is known here.
func openChannel(t *testing.T, dir string, hello channel.Hello, key []byte) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), channelWait)
	defer cancel()
	mac := func(_ context.Context, msg []byte) ([]byte, error) {
		m := hmac.New(sha256.New, key)
		m.Write(msg)
		return m.Sum(nil), nil
	}
	c, err := client.Dial(ctx, setting(t, filepath.Join(dir, "etc", "deviceservice.yaml"), "listen"), channel.DeviceConfig{Hello: hello, MAC: mac})
	if err != nil {
		t.Fatalf("a derived key is not the device's: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

// setting reads a value of a configuration.
func setting(t *testing.T, config, name string) string {
	t.Helper()
	b, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	_, rest, found := strings.Cut("\n"+string(b), "\n"+name+": ")
	if !found {
		t.Fatalf("%s doesn't say %s", config, name)
	}
	value, _, _ := strings.Cut(rest, "\n")
	return value
}

// secretOf begins the names of PINs and passwords among the needles.
const secretOf = "the secret of "

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
				h.needles = append(h.needles, needle{secretOf + name, [][]byte{s}})
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
	res, err := http.Get("http://" + setting(h.t, config, "metrics_listen") + "/metrics")
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
