package console

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
	"github.com/rivo/uniseg"
)

// helpWidth is the widest line of a help page: what fits a terminal of the usual 80 columns wherever it is read,
// so that the page is the same in a terminal, a pipe and a test.
const helpWidth = 79

type helpFlag bool

// BeforeReset prints help before anything is checked, so that it works without the required flags.
func (helpFlag) BeforeReset(ctx *kong.Context, p *program) error {
	node := ctx.Selected()
	if node == nil {
		node = ctx.Model.Node
	}
	printHelp(ctx.Stdout, p, ctx.Model, node)
	return errShown
}

// printHelp writes a page: what it is, how it is called, its arguments and options, aligned, and a session.
func printHelp(w io.Writer, p *program, app *kong.Application, node *kong.Node) {
	text := node.Help
	if node != app.Node && node.Detail != "" {
		text += "\n\n" + node.Detail
	}
	for paragraph := range strings.SplitSeq(strings.TrimSpace(text), "\n\n") {
		fmt.Fprintf(w, "%s\n", wrap(paragraph, "", "", helpWidth))
		fmt.Fprintln(w)
	}

	fmt.Fprintln(w, "Synopsis:")
	leaves := node.Leaves(true)
	if node.Leaf() {
		leaves = []*kong.Node{node}
	}
	for _, l := range leaves {
		fmt.Fprintln(w, wrap(synopsis(app, l), "  ", "      ", helpWidth))
	}

	if len(node.Children) > 0 {
		var rows [][2]string
		for _, l := range leaves {
			rows = append(rows, [2]string{strings.TrimPrefix(path(l), path(node)+" "), l.Help})
		}
		section(w, "Commands:", rows)
	}
	var arguments, own, everywhere [][2]string
	for _, a := range node.Positional {
		arguments = append(arguments, [2]string{argument(a), a.Help})
	}
	section(w, "Arguments:", arguments)
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			row := [2]string{option(f), f.Help}
			switch {
			case f.Hidden:
			case n == app.Node:
				everywhere = append(everywhere, row)
			default:
				own = append(own, row)
			}
		}
	}
	section(w, "Options:", own)
	section(w, "Options of every command:", everywhere)

	session := ""
	if node == app.Node {
		session = p.examples
	} else if e, ok := examplesOf(node); ok {
		session = e
	}
	if session = strings.Trim(session, "\n"); session != "" {
		fmt.Fprintf(w, "\nExamples:\n")
		for line := range strings.SplitSeq(session, "\n") {
			fmt.Fprintln(w, strings.TrimRight("  "+line, " "))
		}
	}
	if len(node.Children) > 0 {
		fmt.Fprintf(w, "\nMore about one command: %s COMMAND --help\n", node.FullPath())
	}
}

func examplesOf(node *kong.Node) (string, bool) {
	if !node.Target.IsValid() || !node.Target.CanAddr() {
		return "", false
	}
	e, ok := node.Target.Addr().Interface().(interface{ Examples() string })
	if !ok {
		return "", false
	}
	return e.Examples(), true
}

// path is the command without aliases: "chips import".
func path(node *kong.Node) string {
	if node == nil || node.Parent == nil {
		return ""
	}
	return strings.TrimSpace(path(node.Parent) + " " + node.Name)
}

// synopsis is one line of the grammar, required flags first: "spp chips import --config=FILE LIST [options]".
func synopsis(app *kong.Application, node *kong.Node) string {
	words := []string{app.Name}
	if p := path(node); p != "" {
		words = append(words, p)
	}
	optional := false
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			switch {
			case f.Hidden:
			case f.Required:
				words = append(words, "--"+f.Name+value(f))
			case n.Parent != nil:
				optional = true
			}
		}
	}
	for _, a := range node.Positional {
		words = append(words, argument(a))
	}
	if optional {
		words = append(words, "[options]")
	}
	return strings.Join(words, " ")
}

func argument(a *kong.Positional) string {
	name := strings.ToUpper(a.Name)
	if a.IsCumulative() {
		name += "..."
	}
	if !a.Required {
		name = "[" + name + "]"
	}
	return name
}

func option(f *kong.Flag) string {
	short := "    "
	if f.Short != 0 {
		short = fmt.Sprintf("-%c, ", f.Short)
	}
	return short + "--" + f.Name + value(f)
}

func value(f *kong.Flag) string {
	if f.IsBool() || f.IsCounter() {
		return ""
	}
	return "=" + f.FormatPlaceHolder()
}

// section prints two aligned columns; a left side too wide for its column gets a line of its own.
func section(w io.Writer, title string, rows [][2]string) {
	const widest = 28
	if len(rows) == 0 {
		return
	}
	column := 0
	for _, r := range rows {
		if n := uniseg.StringWidth(r[0]); n <= widest {
			column = max(column, n)
		}
	}
	fmt.Fprintf(w, "\n%s\n", title)
	indent := strings.Repeat(" ", 2+column+2)
	for _, r := range rows {
		left := "  " + r[0]
		if n := uniseg.StringWidth(r[0]); n > column {
			fmt.Fprintln(w, left)
			left = indent
		} else {
			left += strings.Repeat(" ", column-n+2)
		}
		fmt.Fprintln(w, strings.TrimRight(wrap(r[1], left, indent, helpWidth), " "))
	}
}

// wrap breaks text at spaces into lines of at most width columns; a longer word stays whole.
func wrap(text, first, rest string, width int) string {
	var b strings.Builder
	b.WriteString(first)
	at, fresh := uniseg.StringWidth(first), true
	for word := range strings.FieldsSeq(text) {
		n := uniseg.StringWidth(word)
		switch {
		case fresh:
		case at+1+n > width:
			b.WriteString("\n" + rest)
			at = uniseg.StringWidth(rest)
		default:
			b.WriteByte(' ')
			at++
		}
		b.WriteString(word)
		at, fresh = at+n, false
	}
	return b.String()
}
