package profile_test

import (
	"bytes"
	"crypto/sha256"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

func TestPhone(t *testing.T) {
	t.Parallel()
	got, err := profile.Parse(profile.Phone, "/etc/devicekeys")
	if err != nil {
		t.Fatal(err)
	}
	want := profile.Profile{
		Name: "phone", Identity: identity.TypeIMEI, ChipIDBytes: 32, MasterVersion: 1, KDF: 1,
		Entries: []profile.Entry{
			{Name: "channel", Kind: keypackage.Communication, Algorithm: keypackage.HMACSHA256, Source: profile.Derived},
			{Name: "sim-unlock", Kind: keypackage.SIMLock, Source: profile.Drawn, Digits: true, Size: 16},
			{Name: "model", Kind: keypackage.Opaque, Source: profile.Value, Clear: true, Value: "phone, development"},
		},
	}
	if diff := cmp.Diff(want, got, cmpopts.IgnoreUnexported(profile.Profile{})); diff != "" {
		t.Errorf("the example profile reads differently (-want +got):\n%s", diff)
	}
	if id := got.KeyID(got.Entries[0]); id.String() != "channel/1.1" {
		t.Errorf("key id of a derived entry: %s", id)
	}
	if id := got.KeyID(got.Entries[1]); id.Derived() {
		t.Errorf("key id of a drawn entry: %s", id)
	}
}

// folder copies testdata and adds the secrets, which need a mode that a
// checkout does not keep.
func folder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata")); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "tv/licensor/licence.bin"), bytes.Repeat([]byte{0xa5}, 24), 0o400)
	write(t, filepath.Join(dir, "tv/licensor/32473-A1.bin"), bytes.Repeat([]byte{0x5a}, 128), 0o400)
	return dir
}

func write(t *testing.T, path string, b []byte, mode os.FileMode) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
}

func TestLoad(t *testing.T) {
	t.Parallel()
	dir := folder(t)
	p, err := profile.Load(filepath.Join(dir, "tv.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	want := []profile.Module{
		{Name: "boot.bin", Size: 5, SHA256: sha256.Sum256([]byte("boot\n"))},
		{Name: "crypt.bin", Size: 18, SHA256: sha256.Sum256([]byte("encrypting module\n"))},
	}
	if diff := cmp.Diff(want, p.Modules()); diff != "" {
		t.Errorf("modules (-want +got):\n%s", diff)
	}
	id, err := identity.FromValue(identity.TypeSerial, "32473-A1")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := p.Entries[2].Secret(id); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{0xa5}, 24)) {
		t.Errorf("the line's secret: %d bytes, %v", len(b), err)
	}
	if b, err := p.Entries[3].Secret(id); err != nil || !bytes.Equal(b, bytes.Repeat([]byte{0x5a}, 128)) {
		t.Errorf("the device's secret: %d bytes, %v", len(b), err)
	}
	other, err := identity.FromValue(identity.TypeSerial, "32473-B2")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Entries[3].Secret(other); err == nil || !strings.Contains(err.Error(), "32473-B2") {
		t.Errorf("a device without a file: %v", err)
	}
}

func TestLoadRefuses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		spoil func(t *testing.T, dir string)
		want  string
	}{
		"no licensor's file":   {func(t *testing.T, dir string) { remove(t, dir, "tv/licensor/licence.bin") }, "put the licensor's file there"},
		"no licensor's folder": {func(t *testing.T, dir string) { remove(t, dir, "tv/licensor") }, "put the licensor's file"},
		"readable by others": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "tv/licensor/licence.bin"), make([]byte, 24), 0o440)
		}, "set it to 0400"},
		"a newline too many": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "tv/licensor/licence.bin"), make([]byte, 25), 0o400)
		}, "newline"},
		"too long": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "tv/licensor/licence.bin"), make([]byte, 5000), 0o400)
		}, "longer than 4096"},
		"no modules folder": {func(t *testing.T, dir string) { remove(t, dir, "tv/modules") }, "make the folder"},
		"an empty module":   {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "tv/modules/x.bin"), nil, 0o600) }, "empty"},
		"a module's name":   {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "tv/modules/a b"), []byte("x"), 0o600) }, "letters, digits"},
		"a folder inside":   {func(t *testing.T, dir string) { write(t, filepath.Join(dir, "tv/modules/d/x"), []byte("x"), 0o600) }, "not a regular file"},
		"no profile":        {func(t *testing.T, dir string) { remove(t, dir, "tv.yaml") }, "no such file"},
		"a huge profile": {func(t *testing.T, dir string) {
			write(t, filepath.Join(dir, "tv.yaml"), bytes.Repeat([]byte("#"), profile.MaxSize+1), 0o600)
		}, "longer than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := folder(t)
			c.spoil(t, dir)
			_, err := profile.Load(filepath.Join(dir, "tv.yaml"))
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, an error with %q is expected", err, c.want)
			}
		})
	}
}

func remove(t *testing.T, dir, path string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, path)); err != nil {
		t.Fatal(err)
	}
}

const head = "name: phone\nidentity: imei\nchip_id_bytes: 32\nmaster_version: 1\nkdf: 1\n"
const channel = "  - {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}\n"

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	entries := head + "entries:\n" + channel
	if _, err := profile.Parse([]byte(entries), ""); err != nil {
		t.Fatalf("the table's own base: %v", err)
	}
	for name, c := range map[string]struct{ text, want string }{
		"empty":                             {"", "empty"},
		"unknown key":                       {entries + "colour: red\n", `unknown key colour`},
		"unknown key of entry":              {entries + "  - {name: x, kind: opaque, source: drawn, size: 1, lenght: 2}\n", "unknown key lenght"},
		"key twice":                         {entries + "kdf: 1\n", "already defined"},
		"no value":                          {strings.Replace(entries, "kdf: 1", "kdf:", 1), `"kdf" has no value`},
		"second document":                   {entries + "---\nname: x\n", "second document"},
		"anchor":                            {strings.Replace(entries, "kdf: 1", "kdf: &a 1", 1), "anchors"},
		"tag":                               {strings.Replace(entries, "kdf: 1", "kdf: !!int 1", 1), "tags"},
		"octal":                             {strings.Replace(entries, "kdf: 1", "kdf: 01", 1), "plain decimal"},
		"a fraction":                        {strings.Replace(entries, "kdf: 1", "kdf: 1.0", 1), "quote it"},
		"yes":                               {entries + "allow_unattested: yes\n", "true or false"},
		"number as text":                    {entries + "  - {name: 007, kind: opaque, source: drawn, size: 1}\n", "plain decimal"},
		"number as name":                    {entries + "  - {name: 7, kind: opaque, source: drawn, size: 1}\n", `write "7"`},
		"name":                              {strings.Replace(entries, "name: phone", "name: Phone!", 1), "lower-case"},
		"identity missing":                  {strings.Replace(entries, "identity: imei\n", "", 1), "identity is missing"},
		"identity unknown":                  {strings.Replace(entries, "identity: imei", "identity: meid", 1), "meid"},
		"chip ID length":                    {strings.Replace(entries, "chip_id_bytes: 32", "chip_id_bytes: 20", 1), "16, 24 or 32"},
		"no master version":                 {strings.Replace(entries, "master_version: 1\n", "", 1), "master_version is missing"},
		"KDF 3":                             {strings.Replace(entries, "kdf: 1", "kdf: 3", 1), "kdf is 3"},
		"no entries":                        {head, "0 entries"},
		"an entry twice":                    {entries + channel, "stands twice"},
		"name of entry":                     {entries + "  - {name: Ä, kind: opaque, source: drawn, size: 1}\n", "name"},
		"no kind":                           {entries + "  - {name: x, source: drawn, size: 1}\n", "kind is missing"},
		"kind unknown":                      {entries + "  - {name: x, kind: magic, source: drawn, size: 1}\n", "magic"},
		"no source":                         {entries + "  - {name: x, kind: opaque}\n", "source is missing"},
		"source unknown":                    {entries + "  - {name: x, kind: opaque, source: air}\n", `"air"`},
		"derived secret":                    {entries + "  - {name: x, kind: opaque, source: derived}\n", "can't be derived"},
		"derived with size":                 {entries + "  - {name: x, kind: drm, algorithm: aes-256-gcm, source: derived, size: 16}\n", "remove size"},
		"drawn key":                         {entries + "  - {name: x, kind: drm, algorithm: aes-256-gcm, source: drawn, size: 32}\n", "is derived"},
		"drawn without size":                {entries + "  - {name: x, kind: opaque, source: drawn}\n", "size is 0"},
		"drawn too long":                    {entries + "  - {name: x, kind: opaque, source: drawn, size: 4097}\n", "size is 4097"},
		"three digits":                      {entries + "  - {name: x, kind: sim-lock, source: drawn, digits: true, size: 3}\n", "4 to 64"},
		"file missing":                      {entries + "  - {name: x, kind: opaque, source: file}\n", "file is missing"},
		"file of a drawn entry":             {entries + "  - {name: x, kind: opaque, source: drawn, size: 4, file: x}\n", "source file"},
		"a secret in the profile":           {entries + "  - {name: x, kind: opaque, source: value, value: '1234'}\n", "no secret"},
		"value of a drawn entry":            {entries + "  - {name: x, kind: opaque, source: drawn, size: 4, value: y}\n", "source value"},
		"key pair":                          {entries + "  - {name: x, kind: key-pair, algorithm: es256, source: drawn, size: 32}\n", "source: made"},
		"a derived pair":                    {entries + "  - {name: x, kind: key-pair, algorithm: es256, source: derived}\n", "can't be derived"},
		"a made secret":                     {entries + "  - {name: x, kind: opaque, source: made}\n", "is for keys"},
		"a secret in the pool without size": {entries + "  - {name: x, kind: drm, source: pool}\n", "size is 0"},
		"a long secret in the pool":         {entries + "  - {name: x, kind: drm, source: pool, size: 4097}\n", "size is 4097"},
		"a long imported secret":            {entries + "  - {name: x, kind: drm, source: imported, size: 4097}\n", "size is 4097"},
		"three digits in advance":           {entries + "  - {name: x, kind: sim-lock, source: pool, digits: true, size: 3}\n", "4 to 64"},
		"three digits from outside":         {entries + "  - {name: x, kind: sim-lock, source: imported, digits: true, size: 3}\n", "4 to 64"},
		"a clear value in the pool":         {entries + "  - {name: x, kind: opaque, source: pool, size: 4, clear: true}\n", "remove clear"},
		"a clear value from outside":        {entries + "  - {name: x, kind: opaque, source: imported, clear: true}\n", "remove clear"},
		"a certified secret":                {entries + "  - {name: x, kind: drm, source: pool, size: 4, certificate: true}\n", "only a key pair"},
		"a pair without algorithm":          {entries + "  - {name: x, kind: key-pair, source: pool, size: 4}\n", "has algorithm es256 or ecdh-p256"},
		"digits of a key":                   {entries + "  - {name: x, kind: drm, algorithm: aes-256-gcm, source: pool, digits: true}\n", "remove size"},
		"secrets from outside too heavy":    {entries + strings.ReplaceAll(heavy(16), "source: drawn", "source: imported"), "give sizes"},
		"a made key's size":                 {entries + "  - {name: x, kind: drm, algorithm: aes-256-gcm, source: made, size: 32}\n", "remove size"},
		"a clear pair":                      {entries + "  - {name: x, kind: key-pair, algorithm: es256, source: pool, clear: true}\n", "remove size"},
		"certified symmetric key":           {entries + "  - {name: x, kind: drm, algorithm: aes-256-gcm, source: made, certificate: true}\n", "only a key pair"},
		"publication":                       {strings.Replace(entries, "entries:", "publish: web\nentries:", 1), "sealed, certificates or directory"},
		"nothing to publish":                {strings.Replace(entries, "entries:", "publish: directory\nentries:", 1), "no entry has a certificate"},
		"nothing to name":                   {strings.Replace(entries, "entries:", "identity_in_certificates: true\nentries:", 1), "no entry has a certificate"},
		"nine certificates":                 {entries + pairs(9), "room for 8"},
		"a made key proves": {head + "entries:\n  - {name: x, kind: communication, algorithm: hmac-sha-256, source: made}\n" + channel,
			"put one of kind communication"},
		"a clear derived key": {entries + "  - {name: x, kind: drm, algorithm: aes-256-gcm, source: derived, clear: true}\n", "secret"},
		"nothing proves": {head + "entries:\n  - {name: x, kind: opaque, source: drawn, size: 4}\n",
			"no entry can authenticate"},
		"only an AES key": {head + "entries:\n  - {name: x, kind: drm, algorithm: aes-256-gcm, source: derived}\n",
			"no entry can authenticate"},
		"too heavy": {entries + heavy(16), "give sizes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := profile.Parse([]byte(c.text), "")
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, an error with %q is expected", err, c.want)
			}
			if err != nil && strings.Contains(err.Error(), "profile.") {
				t.Errorf("the message speaks Go: %v", err)
			}
		})
	}
}

func pairs(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("  - {name: p" + string(rune('a'+i)) + ", kind: key-pair, algorithm: es256, source: made, certificate: true}\n")
	}
	return b.String()
}

// TestPairs: the example with key pairs says what its comments say.
func TestPairs(t *testing.T) {
	t.Parallel()
	p, err := profile.Parse(profile.Pairs, "")
	if err != nil {
		t.Fatal(err)
	}
	if !p.Certifies() || p.Publish != profile.Directory || !p.IdentityInCertificates || strings.Join(p.InPool(), " ") != "tls message" {
		t.Errorf("%+v, in the pool %q", p, p.InPool())
	}
}

func heavy(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("  - {name: s" + string(rune('a'+i)) + ", kind: opaque, source: drawn, size: 4096}\n")
	}
	return b.String()
}

// FuzzParse: a profile that is taken is complete, makes a package that fits, and
// its paths stay where they are put.
func FuzzParse(f *testing.F) {
	f.Add(profile.Phone)
	f.Add(profile.Pairs)
	f.Add([]byte(head + "entries:\n" + channel + "  - {name: a, kind: sim-lock, source: pool, digits: true, size: 8}\n  - {name: b, kind: drm, source: imported, size: 24}\n"))
	tv, err := os.ReadFile("testdata/tv.yaml")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(tv)
	// Short ones, since the long ones' comments cost the fuzzer most of its tries.
	head := "name: a\nidentity: imei\nchip_id_bytes: 16\nmaster_version: 1\nkdf: 1\n"
	for _, entries := range []string{
		"- {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}\n",
		"- {name: channel, kind: communication, algorithm: hmac-sha-256, source: derived}\n- {name: s, kind: sim-lock, source: drawn, digits: true, size: 8}\n",
		"- {name: k, kind: key-pair, algorithm: es256, source: drawn}\n- {name: f, kind: drm, source: file, file: \"l/{identity}.bin\", size: 16}\n",
		"- {name: v, kind: opaque, source: value, clear: true, value: x}\n", "[&x {name: *x}]\n", "- {}\n",
	} {
		f.Add([]byte(head + "entries:\n" + entries))
	}
	f.Add([]byte("name: a\n---\nname: b\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		p, err := profile.Parse(data, "/folder")
		if err != nil {
			if strings.Contains(err.Error(), "profile.") && !strings.Contains(string(data), "profile.") {
				t.Errorf("the message speaks Go: %v", err)
			}
			return
		}
		if p.Name == "" || p.Identity == 0 || len(p.Entries) == 0 || len(p.Entries) > keypackage.MaxEntries || p.KDF == 0 || p.MasterVersion == 0 || len(data) > profile.MaxSize {
			t.Errorf("an incomplete profile was accepted: %+v", p)
		}
		seen := map[string]bool{}
		for _, e := range p.Entries {
			if seen[e.Name] || e.Clear && e.Source == profile.Derived || e.Size > keypackage.MaxSecret || e.File != "" && !filepath.IsAbs(e.File) {
				t.Errorf("entry %+v", e)
			}
			seen[e.Name] = true
			if id := p.KeyID(e); id.Derived() != (e.Source == profile.Derived) {
				t.Errorf("entry %+v has key id %s", e, id)
			}
		}
	})
}

// TestSecretsThatWait: a secret that is no key may wait in the pool, and what comes for it is held against the profile.
func TestSecretsThatWait(t *testing.T) {
	t.Parallel()
	p, err := profile.Parse([]byte(head+"entries:\n"+channel+
		"  - {name: code, kind: sim-lock, source: pool, digits: true, size: 8}\n"+
		"  - {name: seed, kind: opaque, source: pool, size: 4096}\n"+
		"  - {name: licence, kind: drm, source: imported}\n"+
		"  - {name: pin, kind: sim-lock, source: imported, digits: true}\n"+
		"  - {name: key, kind: drm, algorithm: aes-256-gcm, source: pool}\n"), "")
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(p.InPool(), " "); got != "code seed licence pin key" {
		t.Errorf("in the pool: %q", got)
	}
	entries := map[string]profile.Entry{}
	for _, e := range p.Entries {
		entries[e.Name] = e
		if e.WaitingKey() != (e.Name == "key") || e.WaitingSecret() != (e.Name != "key" && e.Name != "channel") {
			t.Errorf("%s: key %t, secret %t", e.Name, e.WaitingKey(), e.WaitingSecret())
		}
	}
	key, err := keypackage.WaitingKey{Algorithm: keypackage.AES256GCM, Wrapped: make([]byte, 40)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		entry string
		value []byte
		want  string // "": it is taken
	}{
		{"code", []byte("01234567"), ""},
		{"code", []byte("0123456"), "7 bytes, the profile says 8"},
		{"code", []byte("0123456a"), "decimal digits"},
		{"seed", make([]byte, 4096), ""},
		{"seed", make([]byte, 4095), "4095 bytes"},
		{"licence", []byte{0}, ""},
		{"licence", make([]byte, 4096), ""},
		{"licence", nil, "0 bytes"},
		{"licence", make([]byte, 4097), "4097 bytes"},
		{"licence", key, "a key that waits"},
		{"pin", []byte("1234"), ""},
		{"pin", []byte("123"), "decimal digits"},
		{"pin", []byte(strings.Repeat("1", 65)), "decimal digits"},
		{"pin", []byte("12 4"), "decimal digits"},
	} {
		err := entries[c.entry].CheckSecret(c.value)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s, %d bytes: %v, %q is expected", c.entry, len(c.value), err, c.want)
		}
	}
}
