package console

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/rivo/uniseg"
)

// Column is one column of a table.
type Column struct {
	Name  string // field name in JSON, lower case with underscores, the unit last: "age_ms"
	Title string // heading; "" = the name with spaces for underscores
}

// Columns names columns whose headings follow from their names.
func Columns(names ...string) []Column {
	all := make([]Column, len(names))
	for i, n := range names {
		all[i] = Column{Name: n}
	}
	return all
}

// Table is a result of rows and columns. It is not safe for concurrent use.
type Table struct {
	columns  []Column
	rows     [][]any
	headless bool
}

// NewTable makes an empty table; pass Columns("a", "b")... where names suffice.
func NewTable(columns ...Column) *Table { return &Table{columns: columns} }

// Row adds a row. Missing cells are empty and surplus ones are dropped. A cell may be anything that JSON can hold;
// in text a time is printed in UTC to the second, and characters that could drive a terminal are escaped.
func (t *Table) Row(cells ...any) {
	row := make([]any, len(t.columns))
	copy(row, cells)
	t.rows = append(t.rows, row)
}

// Len is the number of rows.
func (t *Table) Len() int { return len(t.rows) }

// MarshalJSON gives an array of objects, one per row, fields in the order of the columns.
func (t *Table) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	b.WriteByte('[')
	for i, row := range t.rows {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteByte('{')
		for j, c := range t.columns {
			if j > 0 {
				b.WriteByte(',')
			}
			value := row[j]
			switch x := value.(type) {
			case time.Duration:
				value = x.String() // as in text, not a number without unit
			case time.Time:
				if x.IsZero() {
					value = nil
				}
			}
			b.WriteString(strconv.Quote(c.Name))
			b.WriteByte(':')
			if err := e.Encode(value); err != nil {
				return nil, fmt.Errorf("column %q of row %d: %w", c.Name, i, err)
			}
		}
		b.WriteByte('}')
	}
	b.WriteByte(']')
	return b.Bytes(), nil
}

// String is the table in text: columns two spaces apart, numbers to the right, no trailing spaces.
func (t *Table) String() string {
	lines := make([][]string, 0, 1+len(t.rows))
	right := make([]bool, len(t.columns))
	if !t.headless {
		heading := make([]string, len(t.columns))
		for j, c := range t.columns {
			if heading[j] = c.Title; heading[j] == "" {
				heading[j] = strings.ReplaceAll(c.Name, "_", " ")
			}
		}
		lines = append(lines, heading)
	}
	for j := range right {
		right[j] = !t.headless && len(t.rows) > 0
	}
	for _, row := range t.rows {
		line := make([]string, len(row))
		for j, v := range row {
			line[j] = cell(v)
			right[j] = right[j] && isNumber(v)
		}
		lines = append(lines, line)
	}
	width := make([]int, len(t.columns))
	for _, line := range lines {
		for j, c := range line {
			width[j] = max(width[j], uniseg.StringWidth(c))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		var l strings.Builder
		for j, c := range line {
			space := strings.Repeat(" ", width[j]-uniseg.StringWidth(c))
			if j > 0 {
				l.WriteString("  ")
			}
			if right[j] {
				l.WriteString(space + c)
			} else {
				l.WriteString(c + space)
			}
		}
		b.WriteString(strings.TrimRight(l.String(), " ") + "\n")
	}
	return b.String()
}

func isNumber(v any) bool {
	k := reflect.ValueOf(v).Kind()
	_, spelled := v.(fmt.Stringer) // e.g. a duration
	return !spelled && k >= reflect.Int && k <= reflect.Float64
}

// cell is one value in text.
func cell(v any) string {
	switch x := v.(type) {
	case nil:
		return ""
	case time.Time:
		if x.IsZero() {
			return ""
		}
		return x.UTC().Format(time.RFC3339)
	case float64:
		return strconv.FormatFloat(x, 'f', -1, 64)
	}
	return printable(strings.ReplaceAll(fmt.Sprint(v), "\n", " "))
}

// printable escapes what could move a cursor, hide text or turn its direction: such a text may come from a device,
// a file or another server, and is shown to someone who decides by it.
func printable(s string) string {
	if strings.IndexFunc(s, unprintable) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if unprintable(r) {
			quoted := strconv.QuoteRuneToASCII(r)
			b.WriteString(quoted[1 : len(quoted)-1])
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

func unprintable(r rune) bool { return !unicode.IsPrint(r) }
