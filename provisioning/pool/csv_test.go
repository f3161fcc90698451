package pool_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/pool"
	"github.com/google/go-cmp/cmp"
)

func values(ids []identity.Identity) string {
	var v []string
	for _, id := range ids {
		v = append(v, id.Value())
	}
	return strings.Join(v, " ")
}

func TestReadCSV(t *testing.T) {
	t.Parallel()
	phone := pool.Options{Within: []pool.Range{{From: "00440200000000", To: "00440299999999"}}}
	for name, c := range map[string]struct {
		text    string
		kind    identity.Type // 0: IMEI
		options pool.Options
		want    string
		refused map[int]string // line → a part of the reason
	}{
		"with and without check digit": {text: "00440245000001\n004402450000025\n", want: "00440245000001 00440245000002"},
		"no line end":                  {text: "00440245000001", want: "00440245000001"},
		"carriage returns":             {text: "imei\r\n00440245000001\r\n\r\n00440245000002\r\n", want: "00440245000001 00440245000002"},
		"mark, comment, heading":       {text: "\ufeff# ours\n\nTAC,first serial,last serial\n00440245,7,9\n", want: "00440245000007 00440245000008 00440245000009"},
		"quotes and spaces":            {text: ` "00440245" , "000003","3" ` + "\n \"00440245000009\"\n", want: "00440245000003 00440245000009"},
		"empty":                        {text: ""},
		"bad ones": {
			text: "004402450000028\n0044024500000\n3520990176148164\n35A09900000001\n00440245,5,4\n00440245,0,1000000\n00440245,-1,2\n0044024,1,2\n00440245,1\n00440245000001\n",
			want: "00440245000001",
			refused: map[int]string{
				1: "check digit", 2: "13 digits", 3: "IMEISV", 4: "only digits", 5: "above the last", 6: "0 to 999999",
				7: "0 to 999999", 8: "8 digits", 9: "2 fields",
			},
		},
		"twice in the file": {
			text:    "00440245000001\n004402450000017\n00440245,0,5\n00440245,2,5\n00440245,5,6\n",
			want:    "00440245000001 00440245000002 00440245000003 00440245000004 00440245000005",
			refused: map[int]string{2: "line 1", 3: "line 1", 5: "line 4"},
		},
		"outside of the line's ranges": {
			text: "00440199999999\n00440200000000\n00440299,999999,999999\n00440300,0,1\n", options: phone,
			want:    "00440200000000 00440299999999",
			refused: map[int]string{1: "outside", 4: "outside"},
		},
		"a second heading is no heading": {text: "imei\nimei\n00440245000001\n", want: "00440245000001", refused: map[int]string{2: "only digits"}},
		"a long line":                    {text: strings.Repeat("0", 3000) + "\n00440245000001\n", want: "00440245000001", refused: map[int]string{1: "more than 1024 bytes"}},
		"EUI-64":                         {text: "eui64\n0011223344556677\n", kind: identity.TypeEUI64, want: "0011223344556677"},
		"no ranges but of IMEIs":         {text: "32473-A1,1,5\n32473-A1\n", kind: identity.TypeSerial, want: "32473-A1", refused: map[int]string{1: "3 fields"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			kind := c.kind
			if kind == 0 {
				kind = identity.TypeIMEI
			}
			// One byte at a time, so that nothing depends on how a file is cut.
			ids, refused, err := pool.ReadCSV(iotest.OneByteReader(strings.NewReader(c.text)), kind, c.options)
			if err != nil {
				t.Fatal(err)
			}
			if got := values(ids); got != c.want {
				t.Errorf("identities %s, want %s", got, c.want)
			}
			for _, r := range refused {
				if part, ok := c.refused[r.Line]; !ok || !strings.Contains(r.Reason, part) {
					t.Errorf("line %d (%s) was refused: %s, want %q", r.Line, r.Text, r.Reason, part)
				}
				delete(c.refused, r.Line)
			}
			for line := range c.refused {
				t.Errorf("line %d was not refused", line)
			}
		})
	}
}

func TestReadCSVLimits(t *testing.T) {
	t.Parallel()
	broken := errors.New("broken disk")
	for name, c := range map[string]struct {
		text    string
		options pool.Options
		err     error
	}{
		"bytes":      {text: "00440245000001\n00440245000002\n", options: pool.Options{MaxBytes: 20}, err: pool.ErrTooLong},
		"identities": {text: "00440245,0,4\n00440245000007\n", options: pool.Options{MaxIdentities: 5}, err: pool.ErrTooLong},
		"nonsense":   {text: strings.Repeat("9\n", 10_001), err: pool.ErrNotIdentities},
	} {
		ids, refused, err := pool.ReadCSV(strings.NewReader(c.text), identity.TypeIMEI, c.options)
		if !errors.Is(err, c.err) || ids != nil || refused != nil {
			t.Errorf("%s: %d identities, %d refused, error %v", name, len(ids), len(refused), err)
		}
	}
	if _, _, err := pool.ReadCSV(iotest.ErrReader(broken), identity.TypeIMEI, pool.Options{}); !errors.Is(err, broken) {
		t.Errorf("a reader's error: %v", err)
	}
	exact := "00440245000001\n"
	if _, _, err := pool.ReadCSV(strings.NewReader(exact), identity.TypeIMEI, pool.Options{MaxBytes: int64(len(exact)), MaxIdentities: 1}); err != nil {
		t.Errorf("exactly at the limits: %v", err)
	}
}

func FuzzReadCSV(f *testing.F) {
	for _, seed := range []string{"", "imei\r\n00440245000001\n004402450000025", "00440245,0,3\n00440245,3,4\n", "\ufeff#x\n\"00440245\",1,2", "a\x00\n,,\n\n\xff", strings.Repeat("1", 1030) + "\n"} {
		f.Add([]byte(seed), uint8(1))
	}
	f.Fuzz(func(t *testing.T, b []byte, kind uint8) {
		o := pool.Options{MaxIdentities: 1000, MaxBytes: 1 << 16}
		ids, refused, err := pool.ReadCSV(bytes.NewReader(b), identity.Type(kind%4+1), o)
		if err != nil {
			return
		}
		seen := map[string]bool{}
		var again strings.Builder
		for _, id := range ids {
			if seen[id.Value()] || id.Type() != identity.Type(kind%4+1) {
				t.Fatalf("%s twice, or of type %s", id, id.Type())
			}
			seen[id.Value()] = true
			fmt.Fprintln(&again, id.Value())
		}
		if len(ids) > o.MaxIdentities || len(refused) > bytes.Count(b, []byte("\n"))+1 {
			t.Fatalf("%d identities, %d refused lines", len(ids), len(refused))
		}
		// What was taken is taken again.
		same, none, err := pool.ReadCSV(strings.NewReader(again.String()), identity.Type(kind%4+1), o)
		if err != nil || len(none) != 0 || !cmp.Equal(values(ids), values(same)) {
			t.Fatalf("read again: %v, refused %v", err, none)
		}
	})
}
