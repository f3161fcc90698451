package console_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/google/go-cmp/cmp"
)

func sample() *console.Table {
	t := console.NewTable(console.Column{Name: "label"}, console.Column{Name: "age_ms", Title: "age (ms)"}, console.Column{Name: "made"}, console.Column{Name: "took"})
	t.Row("käse", 7, time.Date(2024, 1, 2, 3, 4, 5, 6, time.FixedZone("", 3600)), 1500*time.Millisecond)
	t.Row("日本\x1b[2J\u202e\n", 1234, time.Time{}, nil, "surplus")
	t.Row("a<b")
	return t
}

func TestTable(t *testing.T) {
	t.Parallel()
	var text, doc bytes.Buffer
	if err := (console.Output{}).Print(&text, sample()); err != nil {
		t.Fatal(err)
	}
	const want = `label               age (ms)  made                  took
käse                7         2024-01-02T02:04:05Z  1.5s
日本\x1b[2J\u202e   1234
a<b
`
	if d := cmp.Diff(want, text.String()); d != "" {
		t.Errorf("text (-want +have):\n%s", d)
	}
	if strings.ContainsAny(text.String(), "\x1b\u202e") {
		t.Errorf("a table passes what drives a terminal: %q", text.String())
	}
	if err := (console.Output{JSON: true}).Print(&doc, sample()); err != nil {
		t.Fatal(err)
	}
	const wantDoc = `[
  {
    "label": "käse",
    "age_ms": 7,
    "made": "2024-01-02T03:04:05.000000006+01:00",
    "took": "1.5s"
  },
  {
    "label": "日本\u001b[2J` + "\u202e" + `\n",
    "age_ms": 1234,
    "made": null,
    "took": null
  },
  {
    "label": "a<b",
    "age_ms": null,
    "made": null,
    "took": null
  }
]
`
	if d := cmp.Diff(wantDoc, doc.String()); d != "" {
		t.Errorf("JSON (-want +have):\n%s", d)
	}
}

func TestTableAlignment(t *testing.T) {
	t.Parallel()
	table := console.NewTable(console.Columns("step", "p50_ms", "share")...)
	table.Row("begin", 7, 0.25)
	table.Row("日本", 1234, 12.0)
	const want = "" +
		"step   p50 ms  share\n" +
		"begin       7   0.25\n" +
		"日本     1234     12\n"
	if d := cmp.Diff(want, table.String()); d != "" {
		t.Errorf("(-want +have):\n%s", d)
	}
	if empty := console.NewTable(console.Columns("a", "b_c")...); empty.String() != "a  b c\n" || empty.Len() != 0 {
		t.Errorf("an empty table is %q", empty.String())
	}
	doc, err := json.Marshal(console.NewTable(console.Columns("a")...))
	if err != nil || string(doc) != "[]" {
		t.Errorf("an empty table in JSON is %s, %v", doc, err)
	}
	table.Row("x", math.Inf(1))
	if err := (console.Output{JSON: true}).Print(&bytes.Buffer{}, table); err == nil || !strings.Contains(err.Error(), `column "p50_ms" of row 2`) {
		t.Errorf("a value JSON can't hold: %v", err)
	}
}

func TestPrintStruct(t *testing.T) {
	t.Parallel()
	type status struct {
		Free   int    `json:"free"`
		Name   string `json:"pool_name,omitempty"`
		Hidden string `json:"-"`
		secret string
		Plain  bool
	}
	value := &status{Free: 3, Name: "a", Hidden: "h", secret: "s", Plain: true}
	for _, c := range []struct {
		output console.Output
		want   string
	}{
		{console.Output{}, "free       3\npool name  a\nPlain      true\n"},
		{console.Output{JSON: true}, "{\n  \"free\": 3,\n  \"pool_name\": \"a\",\n  \"Plain\": true\n}\n"},
	} {
		var b bytes.Buffer
		if err := c.output.Print(&b, value); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(c.want, b.String()); d != "" {
			t.Errorf("(-want +have):\n%s", d)
		}
	}
	var b bytes.Buffer
	if err := (console.Output{}).Print(&b, time.Second); err != nil || b.String() != "1s\n" {
		t.Errorf("a Stringer is printed as %q, %v", b.String(), err)
	}
	closed, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	for _, o := range []console.Output{{}, {JSON: true}} {
		if err := o.Print(closed, value); err == nil {
			t.Errorf("%+v: writing to a closed file succeeds", o)
		}
	}
}

func TestProgress(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	p := console.Output{}.Progress(&b, 3, "devices")
	for range 3 {
		p.Add(1)
	}
	if b.Len() > 0 {
		t.Errorf("lines come faster than every few seconds: %q", b.String())
	}
	p.Done()
	p.Done()
	p.Add(1)
	if want := "devices: 3 of 3 in 0s\n"; b.String() != want {
		t.Errorf("have %q, want %q", b.String(), want)
	}
	b.Reset()
	p = console.Output{JSON: true}.Progress(&b, 3, "devices")
	p.Add(1)
	p.Done()
	if b.Len() > 0 {
		t.Errorf("progress with --json: %q", b.String())
	}
	var none *console.Bar
	none.Add(1)
	none.Done()
}
