package profile

import (
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
)

// Limits of a modules folder: what fits a phone's boot partition with room to
// spare, and a list that stays one small message.
const (
	maxModules    = 64
	maxModuleSize = 256 << 20 // bytes
)

// Module is one basic software module: what a station compares its own copy
// with before it loads it into a device.
type Module struct {
	Name   string // file name, "boot.bin"
	Size   int64  // bytes
	SHA256 [sha256.Size]byte
}

// moduleName is what a module may be called on every station.
var moduleName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// listModules hashes the regular files of a folder. Hidden files are passed
// over, anything else than a file is refused. os.ReadDir sorts by name.
func listModules(folder string) ([]Module, error) {
	if folder == "" {
		return nil, nil
	}
	entries, err := os.ReadDir(folder)
	if err != nil {
		return nil, fmt.Errorf("list modules: %w: make the folder, or remove the key modules", err)
	}
	var modules []Module
	for _, e := range entries {
		if e.Name()[0] == '.' {
			continue
		}
		path := filepath.Join(folder, e.Name())
		switch {
		case !moduleName.MatchString(e.Name()):
			return nil, fmt.Errorf("list modules: file name %q: use up to 64 letters, digits, '.', '_' and '-'", path)
		case !e.Type().IsRegular():
			return nil, fmt.Errorf("list modules: %q is not a regular file: move it away", path)
		case len(modules) == maxModules:
			return nil, fmt.Errorf("list modules: %q holds more than %d files", folder, maxModules)
		}
		m, err := hashModule(path, e.Name())
		if err != nil {
			return nil, fmt.Errorf("list modules: %w", err)
		}
		modules = append(modules, m)
	}
	return modules, nil
}

func hashModule(path, name string) (Module, error) {
	f, err := os.Open(path)
	if err != nil {
		return Module{}, err
	}
	defer f.Close() // opened for reading: nothing to lose
	h := sha256.New()
	n, err := io.Copy(h, io.LimitReader(f, maxModuleSize+1))
	if err != nil {
		return Module{}, fmt.Errorf("hash %q: %w", path, err)
	}
	if n == 0 || n > maxModuleSize {
		return Module{}, fmt.Errorf("hash %q: it is empty or longer than %d bytes", path, maxModuleSize)
	}
	return Module{Name: name, Size: n, SHA256: [sha256.Size]byte(h.Sum(nil))}, nil
}
