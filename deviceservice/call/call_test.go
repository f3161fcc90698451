package call_test

import (
	"encoding/hex"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/deviceservice/call"
	"github.com/devicekeys/devicekeys/identity"
)

// TestGolden: the formats do not move.
func TestGolden(t *testing.T) {
	t.Parallel()
	request, err := call.Request{ID: 1, Method: call.MethodEcho, Body: []byte("hi")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	answer, err := call.Answer{ID: 300, Status: call.Refused}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		have []byte
		want string
	}{
		{"request", request, "84" + "01" + "01" + "646563686f" + "426869"},
		{"answer", answer, "84" + "01" + "19012c" + "03" + "40"},
		{"status", call.DeviceStatus{Generation: 2, Newest: 3, Active: false}.Encode(), "84010203f4"},
		{"time", call.EncodeTime(time.UnixMilli(1_700_000_000_123)), "82011b0000018bcfe5687b"},
		{"retry", call.EncodeRetry(1500 * time.Millisecond), "820102"},
	} {
		if have := hex.EncodeToString(c.have); have != c.want {
			t.Errorf("%s is %s, want %s", c.name, have, c.want)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := call.Request{
			ID:     rapid.Uint64Min(1).Draw(t, "id"),
			Method: rapid.StringMatching(`[a-z0-9-]{1,32}`).Draw(t, "method"),
			Body:   rapid.SliceOf(rapid.Byte()).Draw(t, "body"),
		}
		b, err := r.Encode()
		if err != nil {
			t.Fatal(err)
		}
		have, err := call.ParseRequest(b)
		if err != nil || !cmp.Equal(r, have, cmpopts.EquateEmpty()) {
			t.Fatalf("%+v, %v", have, err)
		}
		a := call.Answer{ID: r.ID, Status: call.Status(rapid.IntRange(0, 5).Draw(t, "status")), Body: r.Body}
		if b, err = a.Encode(); err != nil {
			t.Fatal(err)
		}
		if have, err := call.ParseAnswer(b); err != nil || !cmp.Equal(a, have, cmpopts.EquateEmpty()) {
			t.Fatalf("%+v, %v", have, err)
		}
		s := call.DeviceStatus{Generation: identity.Generation(rapid.Uint32().Draw(t, "generation")), Newest: identity.Generation(rapid.Uint32().Draw(t, "newest")), Active: rapid.Bool().Draw(t, "active")}
		if have, err := call.ParseStatus(s.Encode()); err != nil || have != s {
			t.Fatalf("%+v, %v", have, err)
		}
		at := time.UnixMilli(rapid.Int64Range(0, 253402300799999).Draw(t, "time"))
		if have, err := call.ParseTime(call.EncodeTime(at)); err != nil || !have.Equal(at) {
			t.Fatalf("%s, %v", have, err)
		}
		after := time.Duration(rapid.IntRange(0, 1<<20).Draw(t, "seconds")) * time.Second
		if have, err := call.ParseRetry(call.EncodeRetry(after)); err != nil || have != after {
			t.Fatalf("%s, %v", have, err)
		}
	})
}

func TestRefused(t *testing.T) {
	t.Parallel()
	for name, r := range map[string]call.Request{
		"no id":       {Method: "time"},
		"no method":   {ID: 1},
		"long method": {ID: 1, Method: strings.Repeat("x", 33)},
		"odd method":  {ID: 1, Method: "Time"},
		"long body":   {ID: 1, Method: "echo", Body: make([]byte, call.MaxBody+1)},
	} {
		if _, err := r.Encode(); err == nil {
			t.Errorf("encoded: %s", name)
		}
	}
	if b, err := (call.Request{ID: 1 << 63, Method: strings.Repeat("x", 32), Body: make([]byte, call.MaxBody)}).Encode(); err != nil || len(b) > call.MaxMessage {
		t.Errorf("the longest request has %d bytes, %v; the limit is %d", len(b), err, call.MaxMessage)
	}
	for name, text := range map[string]string{
		"empty": "", "another version": "840201646563686f40", "no id": "840100646563686f40", "null body": "840101646563686ff6",
		"no method": "8401016040", "method in capitals": "840101644543484f40", "three items": "830101646563686f", "more bytes": "840101646563686f4000",
		"long integer": "84180101646563686f40",
	} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := call.ParseRequest(b); err == nil {
			t.Errorf("%s: parsed as %+v", name, r)
		}
	}
	for name, text := range map[string]string{"another version": "8402010040", "unknown status": "8401010640", "no id": "8401000040"} {
		b, err := hex.DecodeString(text)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := call.ParseAnswer(b); err == nil {
			t.Errorf("%s: parsed as %+v", name, a)
		}
	}
}

// FuzzParse: whatever is read is written back the same.
func FuzzParse(f *testing.F) {
	for _, text := range []string{"840101646563686f426869", "840119012c0340", "84010203f4", "82011b0000018bcfe5687b", "820102", ""} {
		b, err := hex.DecodeString(text)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		same := func(again []byte, err error) {
			t.Helper()
			if err != nil || string(again) != string(b) {
				t.Errorf("%x is written as %x, %v", b, again, err)
			}
		}
		if r, err := call.ParseRequest(b); err == nil {
			same(r.Encode())
		}
		if a, err := call.ParseAnswer(b); err == nil {
			same(a.Encode())
		}
		if s, err := call.ParseStatus(b); err == nil {
			same(s.Encode(), nil)
		}
		if at, err := call.ParseTime(b); err == nil {
			same(call.EncodeTime(at), nil)
		}
		if after, err := call.ParseRetry(b); err == nil && after < 1<<31*time.Second {
			same(call.EncodeRetry(after), nil)
		}
	})
}
