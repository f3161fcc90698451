package console_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/devicekeys/devicekeys/untested"
)

// completions are what the user has typed, the cursor at the end, and the words that may follow.
var completions = []struct{ typed, want string }{
	{"", "serve chips fail config completion"},
	{"se", "serve"},
	{"chips ", "import list"},
	{"chips li", "list"},
	{"chips list --j", "--json"},
	{"serve --log-l", "--log-level"},
	{"serve --log-level ", "debug info warn error"},
	{"serve --log-level=w", "warn"},
	{"serve --log-level=", "debug info warn error"},
	{"chips import --maker=g", "globex"},
	{"chips import --maker acme de", "delivery.cbor"},
	{"chips import de", "delivery.cbor"},
	{"chips import --maker acme -- de", "delivery.cbor"},
	{"serve --config de", "delivery.cbor"},
	{"serve -c de", "delivery.cbor"},
	{"serve --config=de", "delivery.cbor"},
	{"fail re", "refused"},
	{"completion ", "bash zsh fish"},
	{"chips import --s", ""}, // hidden
	{"chips list x", ""},
}

// programFolder makes a folder with a delivery list and the example program in it.
func programFolder(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The test binary is the program when it is called by its name (testscript.Main).
	if err := os.Symlink(self, filepath.Join(dir, "example")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "delivery.cbor"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func shell(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		untested.Except(t, "completion in %s, which is not installed", name)
	}
	c := exec.CommandContext(t.Context(), path, args...)
	c.Dir = dir
	// A program built with -race sleeps for a second before it exits unless told otherwise.
	c.Env = append(os.Environ(), "GORACE=atexit_sleep_ms=10", "PATH="+dir+":"+os.Getenv("PATH"), "HOME="+dir)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return strings.Join(strings.Fields(string(out)), " ")
}

// bashWords splits as readline does: "=" is a word of its own.
func bashWords(typed string) []string {
	var words []string
	for _, w := range strings.Split("example "+typed, " ") {
		if flag, value, ok := strings.Cut(w, "="); ok {
			words = append(words, flag, "=")
			if value != "" {
				words = append(words, value)
			}
			continue
		}
		words = append(words, w)
	}
	return words
}

func TestCompletionBash(t *testing.T) {
	t.Parallel()
	dir := programFolder(t)
	for _, c := range completions {
		t.Run(c.typed, func(t *testing.T) {
			t.Parallel()
			have := shell(t, dir, "bash", append([]string{"--norc", "-c", `
				source <(example completion bash)
				COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
				$(complete -p example | sed 's/.*-F \([^ ]*\).*/\1/')
				printf '%s\n' "${COMPREPLY[@]}"
			`, "bash"}, bashWords(c.typed)...)...)
			if d := cmp.Diff(c.want, have); d != "" {
				t.Errorf("bash offers (-want +have):\n%s", d)
			}
		})
	}
}

// The shells themselves, in a terminal, with the tab key: one case shows that what was loaded is what they call.
func TestCompletionByKey(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ rc, start string }{
		"bash": {"PS1= ; source <(example completion bash)", "bash --noprofile --rcfile rc -i"},
		"zsh":  {"PS1= ; autoload -U compinit; compinit -u -D; source <(example completion zsh)", "env ZDOTDIR=. zsh -d -i"},
		"fish": {"function fish_prompt; end; example completion fish | source", "fish --no-config -i -C 'source rc'"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, program := range []string{"script", name} {
				if _, err := exec.LookPath(program); err != nil {
					untested.Except(t, "the tab key in %s: %s is not installed", name, program)
				}
			}
			dir := programFolder(t)
			for _, file := range []string{"rc", ".zshrc"} {
				if err := os.WriteFile(filepath.Join(dir, file), []byte(c.rc+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			// The pauses are for the shell to start, and for each key to be taken as typed by hand; a machine under
			// load gets longer ones.
			var have string
			for _, pause := range []string{"0.3", "1", "4"} {
				have = shell(t, dir, "bash", "-c", `
					{ sleep "$2"; sleep "$2"; for keys in 'example chi\t' 'li\t' '--js\t' '\r'; do printf -- "$keys"; sleep "$2"; done; printf 'exit\r'; } |
					TERM=xterm script -qec "$1" /dev/null`, "bash", c.start, pause)
				if strings.Contains(have, `"record_id": "ab"`) && strings.Contains(have, `"age_ms": 12`) {
					return
				}
			}
			t.Errorf("typing \"example chi TAB li TAB --js TAB\" ran no \"example chips list --json\", but printed:\n%q", have)
		})
	}
}

func TestCompletionZsh(t *testing.T) {
	t.Parallel()
	dir := programFolder(t)
	// zsh completes only in its line editor, which zpty drives; here the script is loaded and its words are read
	// with the two builtins it ends in replaced.
	for _, c := range completions {
		t.Run(c.typed, func(t *testing.T) {
			t.Parallel()
			have := shell(t, dir, "zsh", append([]string{"-f", "-c", `
				compdef() { }
				_describe() { print -l -- "${(@)${(@P)2}%%:*}" }
				compset() { PREFIX=${PREFIX#*=} }
				_files() { print -l -- ${PREFIX}*(N) }
				source <(example completion zsh)
				words=("$@") CURRENT=$# PREFIX=${@[-1]}
				_devicekeys_example
			`, "zsh"}, strings.Split("example "+c.typed, " ")...)...)
			want := c.want
			if flag, _, ok := strings.Cut(c.typed, "="); ok && want != "delivery.cbor" { // zsh replaces the whole word
				flag = flag[strings.LastIndex(flag, " ")+1:]
				words := strings.Fields(want)
				for i := range words {
					words[i] = flag + "=" + words[i]
				}
				want = strings.Join(words, " ")
			}
			if d := cmp.Diff(want, have); d != "" {
				t.Errorf("zsh offers (-want +have):\n%s", d)
			}
		})
	}
}

func TestCompletionFish(t *testing.T) {
	t.Parallel()
	dir := programFolder(t)
	for _, c := range completions {
		t.Run(c.typed, func(t *testing.T) {
			t.Parallel()
			have := shell(t, dir, "fish", "--no-config", "-c",
				`example completion fish | source; complete -C"example `+c.typed+`" | string replace -r '\t.*' '' | string replace -r '^--[^=]*=' ''; true`)
			if d := cmp.Diff(strings.Fields(c.want), strings.Fields(have), sortWords); d != "" {
				t.Errorf("fish offers (-want +have):\n%s", d)
			}
		})
	}
}

// fish sorts what it offers.
var sortWords = cmpopts.SortSlices(strings.Compare)
