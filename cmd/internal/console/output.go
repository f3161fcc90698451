package console

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
)

// Output is the choice between a table to read and JSON to process; embed it in every command that prints a result.
type Output struct {
	JSON bool `name:"json" help:"Print the result as one JSON document."`
}

// Print writes a result: as indented JSON if asked for, else as a *Table's aligned columns, as a Stringer's text, or,
// for any other struct, as one line per field. Field names in JSON are those of the value's tags, or a table's
// column names; either way they are part of the program's interface.
func (o Output) Print(w io.Writer, result any) error {
	if o.JSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		if err := e.Encode(result); err != nil {
			return fmt.Errorf("printing %T as JSON: %w", result, err)
		}
		return nil
	}
	var text string
	switch r := result.(type) {
	case *Table:
		text = r.String()
	case fmt.Stringer:
		text = r.String()
	default:
		text = fieldLines(result)
	}
	if text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	if _, err := io.WriteString(w, text); err != nil {
		return fmt.Errorf("printing the result: %w", err)
	}
	return nil
}

// Progress is a bar for this command, or none with --json.
func (o Output) Progress(w io.Writer, total int, label string) *Bar {
	if o.JSON {
		return &Bar{}
	}
	return Progress(w, total, label)
}

// fieldLines prints a struct as "name  value" lines, in the words of its JSON.
func fieldLines(result any) string {
	v := reflect.Indirect(reflect.ValueOf(result))
	if v.Kind() != reflect.Struct {
		return cell(result)
	}
	t := NewTable(Column{}, Column{})
	t.headless = true
	for f := range v.Type().Fields() {
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if name == "" {
			name = f.Name
		}
		t.Row(strings.ReplaceAll(name, "_", " "), v.FieldByIndex(f.Index).Interface())
	}
	return t.String()
}
