package flash

import "fmt"

// Modules gives the content of the module area. Its error matches ErrEmpty or
// ErrTorn where that is the reason.
func (f *Image) Modules() ([]byte, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	b, err := f.read(modules)
	if err != nil {
		return nil, err
	}
	_, content, err := decodeRecord(b)
	return content, err
}

// WriteModules replaces the content of the module area, durably. There is one
// copy only: a crash before it returns leaves ErrTorn, and the station loads
// the modules again; they are no secret and nobody's only copy.
func (f *Image) WriteModules(content []byte) error {
	if len(content) > MaxModules {
		return fmt.Errorf("write flash: software modules of %d bytes, %d fit", len(content), MaxModules)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.write(modules, encodeRecord(1, content))
}
