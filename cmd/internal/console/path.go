package console

import (
	"path/filepath"
	"reflect"
	"strings"
)

// Path is the path of a file or folder in a configuration. LoadConfig resolves a relative one against the folder
// of the configuration file, so that a configuration and what it names can be moved together and a program may be
// started from anywhere. "fd:3" stays as it is: an open descriptor, the other way to hand over a secret.
type Path string

var pathType = reflect.TypeFor[Path]()

func (p Path) String() string { return string(p) }

// in resolves the path against a folder.
func (p Path) in(folder string) Path {
	if p == "" || filepath.IsAbs(string(p)) || strings.HasPrefix(string(p), "fd:") {
		return p
	}
	return Path(filepath.Join(folder, string(p)))
}
