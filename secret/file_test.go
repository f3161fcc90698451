package secret_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/untested"
	"pgregory.net/rapid"
)

func put(t *testing.T, content string, mode os.FileMode) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestReadFileContent(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", secret.MaxSize)
	for name, c := range map[string]struct{ content, want, refusal string }{
		"no newline":        {"1234", "1234", ""},
		"newline":           {"1234\n", "1234", ""},
		"crlf":              {"1234\r\n", "1234", ""},
		"spaces kept":       {" 12 34 \n", " 12 34 ", ""},
		"longest":           {long, long, ""},
		"longest, newline":  {long + "\n", long, ""},
		"longest, crlf":     {long + "\r\n", long, ""},
		"too long":          {long + "x", "", "longer than 1024"},
		"too long, newline": {long + "x\n", "", "longer than 1024"},
		"endless":           {strings.Repeat(long, 100), "", "longer than 1024"},
		"empty":             {"", "", "empty"},
		"only newline":      {"\n", "", "empty"},
		"two lines":         {"1234\n5678\n", "", "more than one line"},
		"blank line after":  {"1234\n\n", "", "more than one line"},
		"lone cr":           {"1234\r", "", "more than one line"},
		"zero byte":         {"12\x0034\n", "", "zero byte"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, err := secret.ReadFile(put(t, c.content, 0o400))
			if c.refusal != "" {
				if err == nil || !strings.Contains(err.Error(), c.refusal) {
					t.Fatalf("error %v, want one with %q", err, c.refusal)
				}
				if !s.IsZero() || strings.Contains(err.Error(), "1234") {
					t.Fatalf("content came out beside the error %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := string(s.Bytes()); got != c.want {
				t.Fatalf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestReadFileInsistsOnMode(t *testing.T) {
	t.Parallel()
	for mode := range os.FileMode(0o1000) {
		// Root reads whatever the mode; another user can't open what lacks 0400.
		if mode&0o400 == 0 && os.Geteuid() != 0 {
			continue
		}
		if mode&^0o444 != 0 && mode&0o077 != 0 && mode%7 != 0 {
			continue // a sample of the wide ones; all of those near 0400 are tried
		}
		path := put(t, planted, mode)
		_, err := secret.ReadFile(path)
		if mode == 0o400 {
			if err != nil {
				t.Errorf("mode %#o: %v", mode, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), "chmod 0400 "+path) {
			t.Errorf("mode %#o: error %v, want one that tells chmod 0400", mode, err)
		}
	}
}

func TestReadFileRefusesOtherThings(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o400); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct{ path, refusal string }{
		"none":        {"", "no file named"},
		"absent":      {filepath.Join(dir, "absent"), "no such file"},
		"directory":   {dir, "directory, not a regular file"},
		"pipe":        {pipe, "pipe, not a regular file"}, // and doesn't hang
		"device":      {"/dev/zero", "device, not a regular file"},
		"no number":   {"fd:", "not a readable descriptor"},
		"stdout":      {"fd:1", "not a readable descriptor"},
		"negative":    {"fd:-1", "not a readable descriptor"},
		"padded":      {"fd:03", "not a readable descriptor"},
		"word":        {"fd:three", "not a readable descriptor"},
		"closed":      {"fd:9999", "open it for this process"},
		"far too big": {"fd:99999999999999999999", "not a readable descriptor"},
	} {
		if _, err := secret.ReadFile(c.path); err == nil || !strings.Contains(err.Error(), c.refusal) {
			t.Errorf("%s: error %v, want one with %q", name, err, c.refusal)
		}
	}
}

func TestReadFileFollowsLinks(t *testing.T) {
	t.Parallel()
	for mode, ok := range map[os.FileMode]bool{0o400: true, 0o644: false} {
		link := filepath.Join(t.TempDir(), "link")
		if err := os.Symlink(put(t, planted, mode), link); err != nil {
			t.Fatal(err)
		}
		if _, err := secret.ReadFile(link); (err == nil) != ok {
			t.Errorf("target of mode %#o: %v", mode, err)
		}
	}
}

// TestReadFileOwner runs as root only: no one else can make another's file.
func TestReadFileOwner(t *testing.T) {
	if os.Geteuid() != 0 {
		untested.Except(t, "another user's file: it takes root to make one")
	}
	path := put(t, planted, 0o400)
	if err := os.Chown(path, 12345, 12345); err != nil {
		t.Fatal(err)
	}
	if _, err := secret.ReadFile(path); err != nil {
		t.Errorf("root may read anyone's: %v", err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := secret.Check(path, info, 12345); err != nil {
		t.Errorf("the owner is refused: %v", err)
	}
	err = secret.Check(path, info, 54321)
	if err == nil || !strings.Contains(err.Error(), "chown 54321 "+path) {
		t.Errorf("error %v, want one that tells chown", err)
	}
}

func TestReadDescriptor(t *testing.T) {
	t.Parallel()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Dup(int(r.Fd())) // ReadFile takes it over and closes it
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
	go func() {
		for _, b := range []byte(planted + "\n") { // in many pieces
			w.Write([]byte{b})
		}
		w.Close()
	}()
	s, err := secret.ReadFile(fmt.Sprintf("fd:%d", fd))
	if err != nil {
		t.Fatal(err)
	}
	if string(s.Bytes()) != planted {
		t.Errorf("got %q", s.Bytes())
	}
}

func TestWriteFile(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "pin")
	if err := secret.WriteFile(path, secret.New([]byte(planted))); err != nil {
		t.Fatal(err)
	}
	if s, err := secret.ReadFile(path); err != nil || string(s.Bytes()) != planted {
		t.Fatalf("read back %q, %v", s.Bytes(), err)
	}
	err := secret.WriteFile(path, secret.New([]byte("other")))
	if !errors.Is(err, secret.ErrExist) {
		t.Errorf("second write: %v, want ErrExist", err)
	}
	if s, _ := secret.ReadFile(path); string(s.Bytes()) != planted {
		t.Error("the second write changed the file")
	}
	for name, s := range map[string]secret.Secret{
		"zero":      {},
		"two lines": secret.New([]byte("a\nb")),
		"zero byte": secret.New([]byte("a\x00b")),
		"too long":  secret.New(bytes.Repeat([]byte("x"), secret.MaxSize+1)),
	} {
		if err := secret.WriteFile(filepath.Join(dir, "refused"), s); err == nil {
			t.Errorf("%s: written", name)
		}
	}
	if err := secret.WriteFile("fd:3", secret.Random(5)); err == nil {
		t.Error("a file was written that ReadFile would take for a descriptor")
	}
	if err := secret.WriteFile(filepath.Join(dir, "absent", "pin"), secret.Random(5)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing folder: %v", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("left behind: %v", entries)
	}
}

// TestRoundTrip: whatever WriteFile accepts, ReadFile gives back.
func TestRoundTrip(t *testing.T) {
	t.Parallel()
	dir, n := t.TempDir(), 0
	rapid.Check(t, func(t *rapid.T) {
		n++
		s := secret.New(rapid.SliceOfN(rapid.Byte(), 0, secret.MaxSize+2).Draw(t, "secret"))
		path := filepath.Join(dir, fmt.Sprint(n))
		if secret.WriteFile(path, s) != nil {
			return
		}
		back, err := secret.ReadFile(path)
		if err != nil || !back.Equal(s) {
			t.Fatalf("wrote %x, read %x, %v", s.Bytes(), back.Bytes(), err)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{"", "\n", "1234", "1234\n", "1234\r\n", "\r\n", "a\nb", "a\x00", "\r", strings.Repeat("x", secret.MaxSize+1)} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, content []byte) {
		s, err := secret.Parse(content)
		if err != nil {
			if !s.IsZero() {
				t.Fatal("a secret beside an error")
			}
			return
		}
		got := s.Bytes()
		if len(got) == 0 || len(got) > secret.MaxSize || bytes.ContainsAny(got, "\n\r\x00") || !bytes.HasPrefix(content, got) {
			t.Fatalf("parse(%q) = %q", content, got)
		}
	})
}
