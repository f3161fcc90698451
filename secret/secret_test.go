package secret_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/secret"
	"go.yaml.in/yaml/v3"
	"pgregory.net/rapid"
)

const planted = "hunter2-correct-horse"

// holder has secrets where fmt calls no methods: unexported, nested, in a map.
type holder struct {
	Public  secret.Secret
	private secret.Secret
	list    []secret.Secret
	named   map[string]secret.Secret
	pointer *secret.Secret
}

func TestNothingPrintsASecret(t *testing.T) {
	t.Parallel()
	s := secret.New([]byte(planted))
	h := holder{s, s, []secret.Secret{s}, map[string]secret.Secret{"a": s}, &s}
	var logged bytes.Buffer
	jsonLog := slog.New(slog.NewJSONHandler(&logged, nil))
	textLog := slog.New(slog.NewTextHandler(&logged, nil))
	for _, l := range []*slog.Logger{jsonLog, textLog} {
		l.Info("opened", "pin", s, "pointer", &s, "holder", h)
	}
	outputs := map[string]string{"slog": logged.String()}
	for _, v := range "vsxXqdobUeftp" {
		for _, flags := range []string{"", "+", "#", "0", "-", " "} {
			verb := "%" + flags + string(v)
			outputs[verb] = fmt.Sprintf(verb, s) + fmt.Sprintf(verb, &s) + fmt.Sprintf(verb, h) + fmt.Sprintf(verb, &h)
		}
	}
	for name, marshal := range map[string]func(any) ([]byte, error){"json": json.Marshal, "yaml": yaml.Marshal} {
		out, err := marshal(h)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), "[redacted]") {
			t.Errorf("%s: %s does not say [redacted]", name, out)
		}
		outputs[name] = string(out)
	}
	decimal := strings.Trim(fmt.Sprint([]byte(planted)), "[]")
	for name, out := range outputs {
		for _, trace := range []string{planted, decimal, fmt.Sprintf("%x", planted), fmt.Sprintf("%X", planted), "aHVudGVyMi1jb3JyZWN0"} {
			if strings.Contains(out, trace) {
				t.Errorf("%s shows the secret: %s", name, out)
			}
		}
	}
	if got := fmt.Sprint(s); got != "[redacted]" {
		t.Errorf("Sprint = %q", got)
	}
}

func TestDecodingIsRefused(t *testing.T) {
	t.Parallel()
	for name, err := range map[string]error{
		"json":        json.Unmarshal([]byte(`{"Public":"`+planted+`"}`), new(holder)),
		"json object": json.Unmarshal([]byte(`{"Public":{"value":"`+planted+`"}}`), new(holder)),
		"yaml":        yaml.Unmarshal([]byte("public: "+planted), new(holder)),
	} {
		if err == nil || !strings.Contains(err.Error(), "name a file") {
			t.Errorf("%s: error %v, want one that says to name a file", name, err)
		} else if strings.Contains(err.Error(), planted) {
			t.Errorf("%s: error repeats the secret: %v", name, err)
		}
	}
}

func TestEqualAndIsZero(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := rapid.SliceOf(rapid.Byte()).Draw(t, "a"), rapid.SliceOf(rapid.Byte()).Draw(t, "b")
		sa, sb := secret.New(a), secret.New(b)
		if sa.Equal(sb) != bytes.Equal(a, b) || !sa.Equal(secret.New(a)) {
			t.Fatalf("Equal is wrong for %x and %x", a, b)
		}
		if sa.IsZero() != (len(a) == 0) {
			t.Fatalf("IsZero is wrong for %x", a)
		}
	})
}

func TestBytesAreCopied(t *testing.T) {
	t.Parallel()
	in := []byte(planted)
	s := secret.New(in)
	clear(in)
	clear(s.Bytes())
	if string(s.Bytes()) != planted {
		t.Error("a caller's buffer changed the secret")
	}
	if b := (secret.Secret{}).Bytes(); b != nil {
		t.Errorf("zero Secret has bytes %x", b)
	}
}

func TestRandom(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for range 100 {
		text := string(secret.Random(20).Bytes())
		if len(text) != 32 || strings.Trim(text, "abcdefghijklmnopqrstuvwxyz234567") != "" {
			t.Fatalf("Random(20) = %q, want 32 characters of base32", text)
		}
		if seen[text] {
			t.Fatal("Random repeated itself")
		}
		seen[text] = true
	}
}
