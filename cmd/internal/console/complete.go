package console

import (
	"embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/alecthomas/kong"
)

// completeWord as the first argument asks the program for the words that may stand where the cursor is. The shell
// scripts call it, so that an upgraded program never meets a script that knows an older grammar. What follows are
// the words typed so far, the last one, perhaps empty, being the one to complete.
const completeWord = "__complete"

// filesAnswer is the one line printed where a file's name belongs: the shell knows files better.
const filesAnswer = ":files"

//go:embed shells
var shells embed.FS

type completionCmd struct {
	program string

	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

func (c *completionCmd) Run(p *program, io IO) error {
	text, err := shells.ReadFile("shells/" + c.Shell)
	if err != nil {
		return fmt.Errorf("completion for %q: %w", c.Shell, err)
	}
	function := strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			return r
		}
		return '_'
	}, p.name)
	_, err = fmt.Fprint(io.Out, strings.NewReplacer("PROGRAM", p.name, "FUNCTION", function, "COMPLETE", completeWord, "FILES", filesAnswer).Replace(string(text)))
	return err
}

func (c *completionCmd) Examples() string {
	return strings.ReplaceAll(`$ source <(PROGRAM completion bash)    # in ~/.bashrc
$ source <(PROGRAM completion zsh)     # in ~/.zshrc, below compinit
$ PROGRAM completion fish > ~/.config/fish/completions/PROGRAM.fish`, "PROGRAM", c.program)
}

// candidate is a word that may stand at the cursor and what it means.
type candidate struct{ word, help string }

// printCompletions prints a line "word TAB help" for each candidate.
func printCompletions(w io.Writer, app *kong.Application, words []string) error {
	found, files := complete(app, words)
	if files {
		_, err := fmt.Fprintln(w, filesAnswer)
		return err
	}
	for _, c := range found {
		help, _, _ := strings.Cut(c.help, "\n")
		if _, err := fmt.Fprintf(w, "%s\t%s\n", c.word, help); err != nil {
			return err
		}
	}
	return nil
}

// complete walks the words along the grammar and lists what may follow. bash splits "--flag=value" into three
// words, the others leave it whole; each gets the answer in the form it replaces.
func complete(app *kong.Application, words []string) (found []candidate, files bool) {
	if len(words) == 0 {
		words = []string{""}
	}
	node, positional, onlyArguments := app.Node, 0, false
	done, last := words[:len(words)-1], words[len(words)-1]
	var pending *kong.Flag // the flag whose value comes next
	for i := 0; i < len(done); i++ {
		word := done[i]
		switch {
		case word == "=" && pending != nil:
		case pending != nil:
			pending = nil
		case word == "--" && !onlyArguments:
			onlyArguments = true
		case strings.HasPrefix(word, "-") && !onlyArguments:
			name, _, whole := strings.Cut(word, "=")
			if f := flagNamed(node, name); f != nil && takesValue(f) && !whole {
				pending = f
			}
		default:
			if child := childNamed(node, word); child != nil {
				node, positional = child, 0
			} else {
				positional++
			}
		}
	}
	if pending != nil {
		if last == "=" { // bash, cursor right behind it: the word to complete is still empty
			last = ""
		}
		return values(pending.Value, last, "")
	}
	if strings.HasPrefix(last, "-") && !onlyArguments {
		if name, value, whole := strings.Cut(last, "="); whole {
			if f := flagNamed(node, name); f != nil && takesValue(f) {
				return values(f.Value, value, name+"=")
			}
			return nil, false
		}
		for n := node; n != nil; n = n.Parent {
			for _, f := range n.Flags {
				if word := "--" + f.Name; !f.Hidden && strings.HasPrefix(word, last) {
					found = append(found, candidate{word, f.Help})
				}
			}
		}
		slices.SortFunc(found, func(a, b candidate) int { return strings.Compare(a.word, b.word) })
		return found, false
	}
	for _, c := range node.Children {
		if !c.Hidden && strings.HasPrefix(c.Name, last) {
			found = append(found, candidate{c.Name, c.Help})
		}
	}
	if n := len(node.Positional); n > 0 {
		if positional >= n && node.Positional[n-1].IsCumulative() {
			positional = n - 1
		}
		if positional < n {
			v, f := values(node.Positional[positional], last, "")
			return append(found, v...), f
		}
	}
	return found, false
}

// values lists what a flag or argument may be: its enum, or files. Anything else has no candidates.
func values(v *kong.Value, start, prefix string) (found []candidate, files bool) {
	switch {
	case v.Enum != "":
		for _, word := range v.EnumSlice() {
			if strings.HasPrefix(word, start) {
				found = append(found, candidate{word: prefix + word})
			}
		}
		return found, false
	case v.Tag != nil && slices.Contains([]string{"path", "existingfile", "existingdir", "filecontent"}, v.Tag.Type):
		return nil, true
	case v.Target.Type() == pathType:
		return nil, true
	}
	return nil, false
}

func takesValue(f *kong.Flag) bool { return !f.IsBool() && !f.IsCounter() }

func flagNamed(node *kong.Node, name string) *kong.Flag {
	for n := node; n != nil; n = n.Parent {
		for _, f := range n.Flags {
			if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
				return f
			}
		}
	}
	return nil
}

func childNamed(node *kong.Node, name string) *kong.Node {
	for _, c := range node.Children {
		if c.Name == name || slices.Contains(c.Aliases, name) {
			return c
		}
	}
	return nil
}
