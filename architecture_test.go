package devicekeys_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const module = "github.com/devicekeys/devicekeys"

// goPackage is what `go list` tells about a package.
type goPackage struct {
	ImportPath   string
	Doc          string
	GoFiles      []string // without those of tests and cgo
	CgoFiles     []string
	Imports      []string // of the code itself, "C" included
	TestImports  []string
	XTestImports []string
	Error        *struct{ Err string }
}

// name is the path inside the module, "." for its root.
func (p goPackage) name() string {
	if p.ImportPath == module {
		return "."
	}
	return strings.TrimPrefix(p.ImportPath, module+"/")
}

// forTests tells whether the package is a harness (registrytest): like a _test file, only tests may need it.
func (p goPackage) forTests() bool { return strings.HasSuffix(p.name(), "test") }

// rule is one line of the house's plan: only some packages may import certain others. A pattern is an import path,
// inside this module without its prefix; "x/..." means x and all below it.
type rule struct {
	why     string
	imports []string // what it is about
	only    []string // who may; nil means nobody
	tests   bool     // tests must obey too
}

var plan = []rule{
	{
		why:     "only programs, the token chip, softhsm and tests touch PKCS#11; everyone else declares the few operations it needs",
		imports: []string{"hsm/..."},
		only:    []string{"hsm/...", "softhsm/...", "device/chip", "cmd/..."},
	},
	{
		why:     "softhsm is for development: what runs in production must not need it",
		imports: []string{"softhsm/..."},
		only:    []string{"softhsm/...", "cmd/..."},
	},
	{
		why:     "cgo lives in hsm and softhsm",
		imports: []string{"C", "github.com/miekg/pkcs11/...", "github.com/ThalesGroup/crypto11/..."},
		only:    []string{"hsm/...", "softhsm/..."},
	},
	{
		why:     "stores alone know SQL",
		imports: []string{"database/sql/...", "github.com/lib/pq/...", "github.com/pressly/goose/..."},
		only:    []string{"database/...", "provisioning/pool", "provisioning/records", "registry/store", "audit/...", "deviceservice/issued/...", "deploy/postgres", "cmd/..."},
	},
	{
		why:     "programs wire the house, so nothing in it can need them",
		imports: []string{"cmd/..."},
		only:    []string{"cmd/..."},
		tests:   true,
	},
}

// values are packages without I/O and without cgo; they may use each other, and nothing else in the house.
var values = []string{"identity", "keypackage", "detcbor", "statement"}

var ioPackages = []string{
	"C", "unsafe", "os/...", "io/fs", "io/ioutil", "path/filepath", "log", "net", "net/http/...", "net/rpc/...", "net/smtp",
	"plugin", "syscall/...", "golang.org/x/sys/...", "database/sql/...", "github.com/lib/pq/...", "github.com/miekg/pkcs11/...",
}

// pureGo are packages that must build, with all they need, without cgo and without a PKCS#11 module.
var pureGo = []string{"registry", "channel", "devicecert", "message", "cmd/registry", "cmd/message"}

func matches(path string, patterns []string) bool {
	path = strings.TrimPrefix(path, module+"/")
	return slices.ContainsFunc(patterns, func(p string) bool {
		base, below := strings.CutSuffix(p, "/...")
		return path == base || below && strings.HasPrefix(path, base+"/")
	})
}

// violations checks packages against the plan; it is a function of its argument only, so that it can be shown to
// notice.
func violations(packages []goPackage) []string {
	var found []string
	report := func(p goPackage, format string, args ...any) {
		if v := p.name() + " " + fmt.Sprintf(format, args...); !slices.Contains(found, v) {
			found = append(found, v)
		}
	}
	for _, p := range packages {
		inTests := slices.Concat(p.TestImports, p.XTestImports)
		for _, r := range plan {
			if matches(p.name(), r.only) {
				continue
			}
			subject := p.Imports
			if p.forTests() && !r.tests {
				subject = nil
			}
			if r.tests {
				subject = slices.Concat(subject, inTests)
			}
			for _, path := range subject {
				if matches(path, r.imports) {
					report(p, "imports %s: %s", path, r.why)
				}
			}
		}
		for _, path := range p.Imports {
			if harness := strings.HasPrefix(path, module+"/") && (goPackage{ImportPath: path}).forTests(); harness && !p.forTests() {
				report(p, "imports %s: that is for tests", path)
			}
			if !slices.Contains(values, p.name()) {
				continue
			}
			if matches(path, ioPackages) {
				report(p, "imports %s: values do no I/O", path)
			}
			if inside, ok := strings.CutPrefix(path, module+"/"); ok && !slices.Contains(values, inside) {
				report(p, "imports %s: values use only values", path)
			}
		}
		if p.Doc == "" && p.Error == nil && len(p.GoFiles)+len(p.CgoFiles) > 0 {
			report(p, "has no package comment")
		}
	}
	return found
}

// list asks `go list`; packages that can't be loaded come with their error, which is the compiler's to report.
func list(t *testing.T, env []string, args ...string) []goPackage {
	t.Helper()
	c := exec.CommandContext(t.Context(), "go", append([]string{"list", "-e", "-json=ImportPath,Doc,GoFiles,CgoFiles,Imports,TestImports,XTestImports,Error"}, args...)...)
	c.Env = append(os.Environ(), env...)
	var errs bytes.Buffer
	c.Stderr = &errs
	out, err := c.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, errs.String())
	}
	var packages []goPackage
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		switch err := d.Decode(&p); {
		case errors.Is(err, io.EOF):
			return packages
		case err != nil:
			t.Fatalf("go list: %v", err)
		}
		packages = append(packages, p)
	}
}

func TestArchitecture(t *testing.T) {
	t.Parallel()
	seen := map[string]bool{}
	for _, tags := range []string{"", "devicekeys_import"} { // the second is a build for tests only, but the plan is the same
		packages := list(t, []string{"CGO_ENABLED=1"}, "-tags", tags, "./...")
		if !slices.ContainsFunc(packages, func(p goPackage) bool { return p.name() == "cmd/internal/console" }) {
			t.Fatalf("go list finds %d packages, and not all of them", len(packages))
		}
		for _, v := range violations(packages) {
			if !seen[v] {
				seen[v] = true
				t.Error(v)
			}
		}
	}
}

// The public side builds where there is neither a C compiler nor PKCS#11.
func TestArchitecturePureGo(t *testing.T) {
	t.Parallel()
	var paths []string
	for _, name := range pureGo {
		if files, err := filepath.Glob(name + "/*.go"); err == nil && len(files) > 0 {
			paths = append(paths, "./"+name)
		}
	}
	if len(paths) == 0 {
		t.Fatal("none of these packages was found: this test checks nothing")
	}
	for _, p := range list(t, []string{"CGO_ENABLED=0"}, append([]string{"-deps"}, paths...)...) {
		if matches(p.ImportPath, []string{"hsm/...", "softhsm/...", "github.com/miekg/pkcs11/...", "github.com/ThalesGroup/crypto11/..."}) {
			t.Errorf("%s needs %s", strings.Join(paths, " "), p.ImportPath)
		}
	}
	build := exec.CommandContext(t.Context(), "go", append([]string{"build", "-o", os.DevNull}, paths...)...)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Errorf("without cgo: %v\n%s", err, out)
	}
}

// The checker notices what it is there for, and lets through what the plan allows.
func TestArchitectureChecker(t *testing.T) {
	t.Parallel()
	in := func(paths ...string) []string {
		for i, p := range paths {
			if strings.HasPrefix(p, "./") {
				paths[i] = module + p[1:]
			}
		}
		return paths
	}
	for name, c := range map[string]struct {
		pkg  goPackage
		want string // beginning of the one violation
	}{
		"hsm from a service":           {goPackage{ImportPath: "station", Imports: in("./hsm")}, "station imports " + module + "/hsm: only programs"},
		"hsm from the device":          {goPackage{ImportPath: "device", Imports: in("./hsm")}, "device imports"},
		"hsm from a program":           {goPackage{ImportPath: "cmd/spp", Imports: in("./hsm")}, ""},
		"hsm from the token chip":      {goPackage{ImportPath: "device/chip", Imports: in("./hsm")}, ""},
		"hsm from softhsm":             {goPackage{ImportPath: "softhsm", Imports: in("./hsm")}, ""},
		"hsm from a test":              {goPackage{ImportPath: "station", XTestImports: in("./hsm"), TestImports: in("./softhsm")}, ""},
		"hsm from a harness":           {goPackage{ImportPath: "station/stationtest", Imports: in("./hsm")}, ""},
		"a name that begins alike":     {goPackage{ImportPath: "station", Imports: in("./hsmish")}, ""},
		"harness from a service":       {goPackage{ImportPath: "station", Imports: in("./registry/registrytest")}, "station imports " + module + "/registry/registrytest: that is for tests"},
		"softhsm from a service":       {goPackage{ImportPath: "provisioning", Imports: in("./softhsm")}, "provisioning imports " + module + "/softhsm: softhsm is for development"},
		"raw PKCS#11 in a program":     {goPackage{ImportPath: "cmd/spp", Imports: in("github.com/miekg/pkcs11")}, "cmd/spp imports github.com/miekg/pkcs11: cgo lives"},
		"crypto11 in a program":        {goPackage{ImportPath: "cmd/spp", Imports: in("github.com/ThalesGroup/crypto11")}, "cmd/spp imports github.com/ThalesGroup/crypto11: cgo lives"},
		"cgo in a program":             {goPackage{ImportPath: "cmd/spp", Imports: in("C")}, "cmd/spp imports C: cgo lives"},
		"cgo in hsm":                   {goPackage{ImportPath: "hsm", Imports: in("C", "github.com/miekg/pkcs11")}, ""},
		"SQL in a service":             {goPackage{ImportPath: "provisioning", Imports: in("database/sql")}, "provisioning imports database/sql: stores alone"},
		"the driver in a service":      {goPackage{ImportPath: "registry", Imports: in("github.com/lib/pq")}, "registry imports github.com/lib/pq: stores alone"},
		"a part of SQL in a service":   {goPackage{ImportPath: "station", Imports: in("database/sql/driver")}, "station imports database/sql/driver: stores alone"},
		"SQL in a store":               {goPackage{ImportPath: "registry/store", Imports: in("database/sql", "github.com/lib/pq")}, ""},
		"a program in the house":       {goPackage{ImportPath: "audit", Imports: in("./cmd/internal/console")}, "audit imports " + module + "/cmd/internal/console: programs wire"},
		"a program in a test":          {goPackage{ImportPath: "audit", TestImports: in("./cmd/spp")}, "audit imports " + module + "/cmd/spp: programs wire"},
		"a program in a harness":       {goPackage{ImportPath: "audit/audittest", Imports: in("./cmd/spp")}, "audit/audittest imports " + module + "/cmd/spp: programs wire"},
		"files in a value":             {goPackage{ImportPath: "identity", Imports: in("os")}, "identity imports os: values do no I/O"},
		"a part of os in a value":      {goPackage{ImportPath: "keypackage", Imports: in("os/exec")}, "keypackage imports os/exec: values do no I/O"},
		"the network in a value":       {goPackage{ImportPath: "detcbor", Imports: in("net")}, "detcbor imports net: values do no I/O"},
		"an address in a value":        {goPackage{ImportPath: "identity", Imports: in("net/url", "io", "log/slog")}, ""},
		"a value in a value":           {goPackage{ImportPath: "identity", Imports: in("./detcbor")}, ""},
		"a service in a value":         {goPackage{ImportPath: "identity", Imports: in("./registry")}, "identity imports " + module + "/registry: values use only values"},
		"files in a value's test":      {goPackage{ImportPath: "identity", TestImports: in("os")}, ""},
		"no package comment":           {goPackage{ImportPath: "audit", Doc: "-", GoFiles: in("a.go")}, "audit has no package comment"},
		"nothing but tests":            {goPackage{ImportPath: "docs", Doc: "-"}, ""},
		"no comment on what is broken": {goPackage{ImportPath: "audit", Doc: "-", GoFiles: in("a.go"), Error: &struct{ Err string }{"broken"}}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c.pkg.ImportPath = module + "/" + c.pkg.ImportPath
			if c.pkg.Doc == "" {
				c.pkg.Doc = "Package x is."
			} else {
				c.pkg.Doc = ""
			}
			have := violations([]goPackage{c.pkg})
			if c.want == "" {
				if len(have) > 0 {
					t.Errorf("reports %q, but this is allowed", have)
				}
				return
			}
			if len(have) != 1 || !strings.HasPrefix(have[0], c.want) {
				t.Error(cmp.Diff([]string{c.want + "..."}, have))
			}
		})
	}
}
