package console

import (
	"fmt"
	"io"
	"reflect"
	"strings"
)

// PrintConfigHelp prints a configuration that LoadConfig would read, with every key explained by its `help` tag:
// keys with a default stand commented out with it, required keys stand with their `example`. config is the struct
// or a pointer to one; its values don't matter.
func PrintConfigHelp(w io.Writer, config any) error {
	t := reflect.TypeOf(config)
	for t != nil && t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	if t == nil || t.Kind() != reflect.Struct {
		return fmt.Errorf("printing the keys of %T, which is not a struct", config)
	}
	var b strings.Builder
	printFields(&b, fieldsOf(t), "", false)
	_, err := io.WriteString(w, strings.TrimLeft(b.String(), "\n"))
	return err
}

// printFields prints keys at an indent. Inside a commented-out section everything is a comment.
func printFields(b *strings.Builder, all fields, indent string, comment bool) {
	for i, f := range all {
		t := pointed(f.typ)
		inner, list := t, t.Kind() == reflect.Slice || t.Kind() == reflect.Map
		if list {
			inner = pointed(t.Elem())
		}
		section := inner.Kind() == reflect.Struct && !isScalar(reflect.Zero(inner))
		if i > 0 || section {
			b.WriteByte('\n')
		}
		help := f.help
		switch {
		case f.required:
			help += " Required."
		case f.def == "" && !section:
			help += " Optional."
		}
		fmt.Fprintln(b, wrap(help, indent+"# ", indent+"# ", helpWidth))
		hide := comment || !f.required && (!section || list || f.typ.Kind() == reflect.Pointer)
		mark := indent
		if hide {
			mark = indent + "#"
		}
		switch {
		case section && list && t.Kind() == reflect.Map:
			fmt.Fprintf(b, "%s%s:\n%s  NAME:\n", mark, f.name, mark)
			printFields(b, fieldsOf(inner), indent+"    ", hide)
		case section && list:
			fmt.Fprintf(b, "%s%s:\n%s  -\n", mark, f.name, mark)
			printFields(b, fieldsOf(inner), indent+"    ", hide)
		case section:
			fmt.Fprintf(b, "%s%s:\n", mark, f.name)
			printFields(b, fieldsOf(inner), indent+"  ", hide)
		default:
			value := f.def
			if value == "" {
				value = f.example
			}
			switch {
			case value != "":
			case t.Kind() == reflect.Slice:
				value = "[]"
			case t.Kind() == reflect.Map:
				value = "{}"
			default:
				value = "VALUE"
			}
			fmt.Fprintf(b, "%s%s: %s\n", mark, f.name, value)
		}
	}
}

// pointed is the type behind a pointer.
func pointed(t reflect.Type) reflect.Type {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	return t
}
