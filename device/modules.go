package device

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/device/flash"
)

// Module is a software module of step 2, such as an I/O driver.
type Module struct {
	Name    string // 1 to 64 bytes
	SHA256  [32]byte
	Content []byte
}

// ModuleInfo names a module that is loaded.
type ModuleInfo struct {
	Name   string
	SHA256 [32]byte
	Size   int // bytes
}

const (
	maxModules    = 64
	maxModuleName = 64
	modulesFormat = 1
)

type modulesWire struct {
	_       struct{} `cbor:",toarray"`
	Version uint
	Modules []moduleWire
}

type moduleWire struct {
	_       struct{} `cbor:",toarray"`
	Name    string
	SHA256  []byte
	Content []byte
}

// LoadModules writes the software modules into flash, in place of those that
// were there, if each is what its hash says; else it refuses with
// ReasonModule. Together they may have flash.MaxModules bytes, less framing.
//
// A crash leaves the module area torn, which Status shows: load again.
func (d *Device) LoadModules(ctx context.Context, modules []Module) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.use(); err != nil {
		return err
	}
	if len(modules) > maxModules {
		return fmt.Errorf("load software modules: %d modules, at most %d are held", len(modules), maxModules)
	}
	wire := modulesWire{Version: modulesFormat, Modules: []moduleWire{}}
	for _, m := range modules {
		if m.Name == "" || len(m.Name) > maxModuleName {
			return fmt.Errorf("load software module %q: a name of 1 to %d bytes is needed", m.Name, maxModuleName)
		}
		if sha256.Sum256(m.Content) != m.SHA256 {
			return refuse(ReasonModule, nil, "software module %q is not the one its hash names", m.Name)
		}
		wire.Modules = append(wire.Modules, moduleWire{Name: m.Name, SHA256: m.SHA256[:], Content: m.Content})
	}
	content, err := detcbor.Marshal(wire)
	if err != nil {
		return fmt.Errorf("load software modules: %w", err)
	}
	if err := d.flash.WriteModules(content); err != nil {
		return fmt.Errorf("load software modules: %w", err)
	}
	d.log.InfoContext(ctx, "software modules loaded", "modules", len(modules))
	return nil
}

// modules lists what is loaded; none where the area is empty or torn.
func (d *Device) modules() ([]ModuleInfo, error) {
	content, err := d.flash.Modules()
	if errors.Is(err, flash.ErrEmpty) || errors.Is(err, flash.ErrTorn) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	return parseModules(content)
}

func parseModules(content []byte) ([]ModuleInfo, error) {
	var wire modulesWire
	if err := detcbor.Unmarshal(content, &wire, flash.MaxModules); err != nil {
		return nil, fmt.Errorf("read software modules: %w", err)
	}
	if wire.Version != modulesFormat || len(wire.Modules) > maxModules {
		return nil, fmt.Errorf("read software modules: version %d with %d modules is not known", wire.Version, len(wire.Modules))
	}
	var out []ModuleInfo
	for _, m := range wire.Modules {
		if len(m.SHA256) != sha256.Size {
			return nil, fmt.Errorf("read software modules: hash of %d bytes", len(m.SHA256))
		}
		out = append(out, ModuleInfo{Name: m.Name, SHA256: [32]byte(m.SHA256), Size: len(m.Content)})
	}
	return out, nil
}
