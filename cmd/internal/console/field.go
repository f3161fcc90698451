package console

import (
	"encoding"
	"reflect"
	"strings"
	"time"
)

// field is one key of a configuration, as the struct's tags describe it.
type field struct {
	name     string // `yaml:"name"`, or the Go name in lower case
	help     string // `help:"..."`
	def      string // `default:"..."`, as it would stand in the file
	example  string // `example:"..."`, shown where there is no default
	required bool   // `required:"true"`
	index    []int
	typ      reflect.Type
}

type fields []field

// fieldsOf lists a struct's keys in the order of its fields; those of an embedded struct, or of one tagged
// `yaml:",inline"`, stand among them.
func fieldsOf(t reflect.Type) fields {
	var all fields
	for f := range t.Fields() {
		name, rest, _ := strings.Cut(f.Tag.Get("yaml"), ",")
		if name == "-" || !f.IsExported() && !f.Anonymous {
			continue
		}
		if f.Type.Kind() == reflect.Struct && (rest == "inline" || f.Anonymous && name == "") {
			for _, inner := range fieldsOf(f.Type) {
				inner.index = append([]int{f.Index[0]}, inner.index...)
				all = append(all, inner)
			}
			continue
		}
		if name == "" {
			name = strings.ToLower(f.Name)
		}
		all = append(all, field{
			name: name, help: f.Tag.Get("help"), def: f.Tag.Get("default"), example: f.Tag.Get("example"),
			required: f.Tag.Get("required") == "true", index: f.Index, typ: f.Type,
		})
	}
	return all
}

func (all fields) named(name string) (field, bool) {
	for _, f := range all {
		if f.name == name {
			return f, true
		}
	}
	return field{}, false
}

// nearest suggests the known key that takes the fewest edits, if few enough that it may be the one meant.
func (all fields) nearest(name string) string {
	best, least := "", 1+max(2, len(name)/3)
	for _, f := range all {
		if d := distance(name, f.name); d < least {
			best, least = f.name, d
		}
	}
	if best == "" {
		names := make([]string, len(all))
		for i, f := range all {
			names[i] = f.name
		}
		return "; known are " + strings.Join(names, ", ")
	}
	return `; did you mean "` + best + `"?`
}

// distance is Levenshtein's: how many bytes to insert, remove or replace. Its inputs are keys of a file of limited
// size; a long one can't be meant and isn't compared.
func distance(a, b string) int {
	const longest = 64
	if len(a) > longest || len(b) > longest {
		return longest
	}
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

var (
	durationType    = reflect.TypeFor[time.Duration]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// isScalar tells whether one word in the file fills the value.
func isScalar(v reflect.Value) bool {
	if reflect.PointerTo(v.Type()).Implements(textUnmarshaler) {
		return true
	}
	switch v.Kind() {
	case reflect.String, reflect.Bool, reflect.Float32, reflect.Float64,
		reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return true
	}
	return false
}

// typeName is what a value is called in messages and in the help of a configuration.
func typeName(t reflect.Type) string {
	switch {
	case t == pathType:
		return "a path"
	case t == durationType:
		return `a duration such as "1m30s"`
	case t.Kind() == reflect.Bool:
		return "true or false"
	case t.Kind() >= reflect.Int && t.Kind() <= reflect.Uint64:
		return "a whole number"
	case t.Kind() == reflect.Float32 || t.Kind() == reflect.Float64:
		return "a number"
	case t.Kind() == reflect.Slice:
		return "a list"
	case t.Kind() == reflect.Map:
		return "names and values"
	default:
		return "a word"
	}
}
