package console

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// configLimit is the largest configuration file read: far above any real one, far below what hurts.
const configLimit = 1 << 20

// ConfigFile is the option that names the configuration; embed it in a command.
type ConfigFile struct {
	Config Path `name:"config" short:"c" required:"" placeholder:"FILE" help:"Configuration, one YAML document; every key is explained by the config command."`
}

// ConfigHelp is a command that prints every key of the configuration T, e.g.
//
//	Config console.ConfigHelp[Config] `cmd:"" help:"Print every key of the configuration and its default."`
type ConfigHelp[T any] struct{}

// Run prints the keys.
func (ConfigHelp[T]) Run(io IO) error { return PrintConfigHelp(io.Out, new(T)) }

// ConfigError says where a configuration is wrong. The program ends with code 2.
type ConfigError struct {
	File string // as given
	Line int    // from 1; 0 where the error has no place in the file
	Key  string // e.g. "pool.database.host"; "" for the whole document
	Err  error
}

func (e *ConfigError) Error() string {
	s := "configuration " + e.File
	if e.Line > 0 {
		s += fmt.Sprintf(":%d", e.Line)
	}
	if e.Key != "" {
		s += fmt.Sprintf(": key %q", e.Key)
	}
	return s + ": " + e.Err.Error()
}

func (e *ConfigError) Unwrap() error { return e.Err }
func (e *ConfigError) usage()        {}

// LoadConfig reads a YAML file into the struct that into points to. It first sets each field with a `default` tag,
// then refuses what a reader could mistake: an unknown key (naming the nearest known one), a key twice, a key
// without a value (a section may be empty), anchors and merges, a second document, a file above 1 MiB, and a key
// that is missing or an empty word though its field is tagged `required:"true"`. Values of type Path are resolved
// against the file's folder. A struct inside with a method `Validate() error` is asked once it is filled, also where
// its section is absent; its error is reported at its place in the file.
//
// Fields are named by their `yaml` tag, or by their Go name in lower case, and may be strings, booleans, numbers,
// time.Duration ("1m30s"), anything with UnmarshalText, structs, pointers to structs, slices, and maps with string
// keys. Embedded structs are part of their outer one. Every error about the file is a *ConfigError.
func LoadConfig(path string, into any) error {
	text, err := readConfig(path)
	if err != nil {
		return err
	}
	l := loader{file: path, folder: filepath.Dir(path)}
	return l.load(text, into)
}

func readConfig(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, &ConfigError{File: path, Err: Hint(fmt.Errorf("opening it: %w", errors.Unwrap(err)), "give the file with --config, or make one from what the config command prints")}
	}
	defer f.Close() // opened for reading: nothing to lose
	text, err := io.ReadAll(io.LimitReader(f, configLimit+1))
	if err != nil {
		return nil, &ConfigError{File: path, Err: fmt.Errorf("reading it: %w", errors.Unwrap(err))}
	}
	if len(text) > configLimit {
		return nil, &ConfigError{File: path, Err: fmt.Errorf("it is above the limit of %d bytes", configLimit)}
	}
	return text, nil
}

// loader carries what every error and Path needs.
type loader struct{ file, folder string }

func (l *loader) errorf(n *yaml.Node, key, format string, args ...any) error {
	e := &ConfigError{File: l.file, Key: key, Err: fmt.Errorf(format, args...)}
	if n != nil {
		e.Line = n.Line
	}
	return e
}

func (l *loader) load(text []byte, into any) error {
	target := reflect.ValueOf(into)
	if target.Kind() != reflect.Pointer || target.IsNil() || target.Elem().Kind() != reflect.Struct {
		return fmt.Errorf("reading configuration %s: into %T, which is not a pointer to a struct", l.file, into)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(text))
	var document, second yaml.Node
	switch err := decoder.Decode(&document); {
	case errors.Is(err, io.EOF): // nothing but comments: every key has its default
		document = yaml.Node{Kind: yaml.DocumentNode, Content: []*yaml.Node{{Kind: yaml.MappingNode, Line: 1}}}
	case err != nil:
		return l.errorf(nil, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		if err != nil {
			return l.errorf(nil, "", "%s", strings.TrimPrefix(err.Error(), "yaml: "))
		}
		return l.errorf(&second, "", "a second document begins here, but a configuration is one document")
	}
	return l.decode(document.Content[0], target.Elem(), "")
}

// decode fills one value from one node.
func (l *loader) decode(n *yaml.Node, v reflect.Value, key string) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "":
		return l.errorf(n, key, "anchors and aliases are not used here; write the value out")
	case isNull(n) && v.Kind() == reflect.Struct && !isScalar(v): // a section whose keys are all commented out
		return l.decodeStruct(&yaml.Node{Kind: yaml.MappingNode, Line: n.Line}, v, key)
	case isNull(n):
		return l.errorf(n, key, "has no value; give one or remove the key")
	case isScalar(v):
		return l.decodeScalar(n, v, key)
	}
	switch v.Kind() {
	case reflect.Pointer:
		v.Set(reflect.New(v.Type().Elem()))
		return l.decode(n, v.Elem(), key)
	case reflect.Struct:
		return l.decodeStruct(n, v, key)
	case reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return l.errorf(n, key, "want a list, have %s", kindName(n))
		}
		list := reflect.MakeSlice(v.Type(), len(n.Content), len(n.Content))
		for i, item := range n.Content {
			if err := l.decode(item, list.Index(i), fmt.Sprintf("%s[%d]", key, i)); err != nil {
				return err
			}
		}
		v.Set(list)
		return nil
	case reflect.Map:
		return l.decodeMap(n, v, key)
	default:
		return l.errorf(n, key, "the program has a field of type %s here, which no configuration can fill", v.Type())
	}
}

func (l *loader) decodeScalar(n *yaml.Node, v reflect.Value, key string) error {
	if n.Kind != yaml.ScalarNode {
		return l.errorf(n, key, "want %s, have %s", typeName(v.Type()), kindName(n))
	}
	if !plain(n, v) {
		return l.errorf(n, key, "want %s, have %q", typeName(v.Type()), n.Value)
	}
	if err := n.Decode(v.Addr().Interface()); err != nil {
		var wrong *yaml.TypeError // its text repeats the line and names Go types
		if errors.As(err, &wrong) {
			return l.errorf(n, key, "want %s, have %q", typeName(v.Type()), n.Value)
		}
		return l.errorf(n, key, "value %q: %w", n.Value, err)
	}
	if v.Type() == pathType {
		v.Set(reflect.ValueOf(Path(v.String()).in(l.folder)))
	}
	return nil
}

// plain tells whether a word may stand for the value without surprise. YAML and its decoder would also take 1.5
// for a whole number (as 1), 010 as 8, "no" and "y" as booleans, and 5 as a duration of five nanoseconds.
func plain(n *yaml.Node, v reflect.Value) bool {
	k := v.Kind()
	switch {
	case v.Type() == durationType:
		return n.Tag == "!!str"
	case reflect.PointerTo(v.Type()).Implements(textUnmarshaler):
		return true
	case k == reflect.Bool:
		return n.Value == "true" || n.Value == "false"
	case k >= reflect.Int && k <= reflect.Uint64:
		return wholeNumber.MatchString(n.Value)
	case k == reflect.Float32 || k == reflect.Float64:
		return decimalNumber.MatchString(n.Value)
	}
	return true
}

var (
	wholeNumber   = regexp.MustCompile(`^-?(0|[1-9][0-9]*)$`)
	decimalNumber = regexp.MustCompile(`^-?(0|[1-9][0-9]*)(\.[0-9]+)?(e-?[0-9]+)?$`)
)

func (l *loader) decodeStruct(n *yaml.Node, v reflect.Value, key string) error {
	if n.Kind != yaml.MappingNode {
		return l.errorf(n, key, "want keys and values, have %s", kindName(n))
	}
	fields := fieldsOf(v.Type())
	for _, f := range fields {
		if err := l.setDefault(v.FieldByIndex(f.index), f, join(key, f.name)); err != nil {
			return err
		}
	}
	seen := map[string]int{}
	for i := 0; i < len(n.Content); i += 2 {
		name, item := n.Content[i], n.Content[i+1]
		f, known := fields.named(name.Value)
		switch {
		case name.Kind != yaml.ScalarNode || name.Tag == "!!merge":
			return l.errorf(name, key, "merges and keys that aren't words are not used here")
		case !known:
			return l.errorf(name, join(key, name.Value), "unknown key%s", fields.nearest(name.Value))
		case seen[name.Value] > 0:
			return l.errorf(name, join(key, name.Value), "is here twice, first in line %d", seen[name.Value])
		}
		seen[name.Value] = name.Line
		if isNull(item) {
			item.Line = name.Line // yaml puts an absent value on the line after its key
		}
		if err := l.decode(item, v.FieldByIndex(f.index), join(key, name.Value)); err != nil {
			return err
		}
	}
	for _, f := range fields {
		if seen[f.name] > 0 {
			if value := v.FieldByIndex(f.index); f.required && value.Kind() == reflect.String && value.Len() == 0 {
				return l.errorf(&yaml.Node{Line: seen[f.name]}, join(key, f.name), "is required and empty (%s)", strings.TrimSuffix(f.help, "."))
			}
			continue
		}
		if f.required {
			return l.errorf(n, join(key, f.name), "is required and missing (%s)", strings.TrimSuffix(f.help, "."))
		}
		// An absent section has its defaults, its required keys and its Validate all the same.
		if inner := v.FieldByIndex(f.index); inner.Kind() == reflect.Struct && !isScalar(inner) {
			if err := l.decodeStruct(&yaml.Node{Kind: yaml.MappingNode, Line: n.Line}, inner, join(key, f.name)); err != nil {
				return err
			}
		}
	}
	if c, ok := v.Addr().Interface().(interface{ Validate() error }); ok {
		if err := c.Validate(); err != nil {
			return l.errorf(n, key, "%w", err)
		}
	}
	return nil
}

func (l *loader) decodeMap(n *yaml.Node, v reflect.Value, key string) error {
	if n.Kind != yaml.MappingNode {
		return l.errorf(n, key, "want keys and values, have %s", kindName(n))
	}
	if v.Type().Key().Kind() != reflect.String {
		return l.errorf(n, key, "the program has a map without string keys here, which no configuration can fill")
	}
	m := reflect.MakeMapWithSize(v.Type(), len(n.Content)/2)
	for i := 0; i < len(n.Content); i += 2 {
		name, item := n.Content[i], n.Content[i+1]
		if name.Kind != yaml.ScalarNode || name.Tag == "!!merge" {
			return l.errorf(name, key, "merges and keys that aren't words are not used here")
		}
		k := reflect.ValueOf(name.Value).Convert(v.Type().Key())
		if m.MapIndex(k).IsValid() {
			return l.errorf(name, join(key, name.Value), "is here twice")
		}
		if isNull(item) {
			item.Line = name.Line
		}
		value := reflect.New(v.Type().Elem()).Elem()
		if err := l.decode(item, value, join(key, name.Value)); err != nil {
			return err
		}
		m.SetMapIndex(k, value)
	}
	v.Set(m)
	return nil
}

// setDefault fills a field that has a default.
func (l *loader) setDefault(v reflect.Value, f field, key string) error {
	if f.def == "" {
		return nil
	}
	var n yaml.Node
	if err := yaml.Unmarshal([]byte(f.def), &n); err != nil || len(n.Content) != 1 {
		return l.errorf(nil, key, "the program's own default %q is not a value", f.def)
	}
	if err := l.decode(n.Content[0], v, key); err != nil {
		return fmt.Errorf("the program's own default: %w", err)
	}
	return nil
}

func join(key, name string) string {
	if key == "" {
		return name
	}
	return key + "." + name
}

func isNull(n *yaml.Node) bool { return n.Kind == yaml.ScalarNode && n.Tag == "!!null" }

func kindName(n *yaml.Node) string {
	switch n.Kind {
	case yaml.SequenceNode:
		return "a list"
	case yaml.MappingNode:
		return "keys and values"
	default:
		return fmt.Sprintf("%q", n.Value)
	}
}
