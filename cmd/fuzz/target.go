package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// target is one fuzz target.
type target struct {
	Package string `json:"package"` // below the module, "." for its root
	Name    string `json:"target"`
}

func (t target) String() string { return t.Package + "." + t.Name }

// goPackage is what `go list` tells of a package.
type goPackage struct {
	ImportPath   string
	Dir          string
	Module       *struct{ Path string }
	TestGoFiles  []string
	XTestGoFiles []string
}

// targets reads the module's fuzz targets from its source, below dir: that takes a second, where `go test -list`
// links every test first.
func targets(ctx context.Context, dir string) ([]target, error) {
	var trouble bytes.Buffer
	list := exec.CommandContext(ctx, "go", "list", "-e", "-json=ImportPath,Dir,Module,TestGoFiles,XTestGoFiles", "./...")
	list.Dir, list.Stderr = dir, &trouble
	out, err := list.Output()
	if err != nil {
		return nil, fmt.Errorf("list the module's packages: %w: %s", err, bytes.TrimSpace(trouble.Bytes()))
	}
	var all []target
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p goPackage
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, fmt.Errorf("list the module's packages: %w", err)
		}
		name := p.ImportPath
		if p.Module != nil {
			name = cmp.Or(strings.TrimPrefix(strings.TrimPrefix(name, p.Module.Path), "/"), ".")
		}
		for _, file := range slices.Concat(p.TestGoFiles, p.XTestGoFiles) {
			names, err := targetsOf(filepath.Join(p.Dir, file))
			if err != nil {
				return nil, err
			}
			for _, n := range names {
				all = append(all, target{name, n})
			}
		}
	}
	slices.SortFunc(all, func(a, b target) int { return strings.Compare(a.String(), b.String()) })
	return all, nil
}

// targetsOf gives the fuzz targets of one file: functions FuzzX(*testing.F).
func targetsOf(path string) ([]string, error) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		return nil, fmt.Errorf("read fuzz targets: %w", err)
	}
	var names []string
	for _, d := range file.Decls {
		f, ok := d.(*ast.FuncDecl)
		if !ok || f.Recv != nil || !strings.HasPrefix(f.Name.Name, "Fuzz") || len(f.Type.Params.List) != 1 {
			continue
		}
		if star, ok := f.Type.Params.List[0].Type.(*ast.StarExpr); ok {
			if s, ok := star.X.(*ast.SelectorExpr); ok && s.Sel.Name == "F" {
				names = append(names, f.Name.Name)
			}
		}
	}
	return names, nil
}

// chosen gives those that one of the expressions matches; all where there is none.
func chosen(all []target, wanted []*regexp.Regexp) []target {
	if len(wanted) == 0 {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), func(t target) bool {
		return !slices.ContainsFunc(wanted, func(r *regexp.Regexp) bool { return r.MatchString(t.String()) })
	})
}
