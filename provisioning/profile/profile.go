package profile

import (
	_ "embed"
	"fmt"
	"os"
	"path/filepath"
	"regexp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

// MaxSize bounds a profile, in bytes: 32 entries with a clear value each stay
// well below it.
const MaxSize = 256 << 10

// Phone is a profile that works as it stands: the development set-up's product
// line, and the example of the documents.
//
//go:embed phone.yaml
var Phone []byte

// Pairs is a profile with key pairs and their certificates.
//
//go:embed pairs.yaml
var Pairs []byte

// Profile is what the SPP knows of a product line. It is read only after
// Parse or Load, and safe for concurrent use.
type Profile struct {
	// Name is the product line's, as station certificates and the identity
	// pool spell it, e.g. "phone".
	Name string `yaml:"name"`
	// Identity is the type of identity that each device gets.
	Identity identity.Type `yaml:"identity"`
	// ChipIDBytes is the length of the line's chip IDs: 16, 24 or 32. With the
	// type of identity it fixes the certificate's length (identity.Layout).
	ChipIDBytes int `yaml:"chip_id_bytes"`
	// AllowUnattested lets chips take part that no delivery list names: whoever
	// controls the line's cabling could take such a chip's place.
	AllowUnattested bool `yaml:"allow_unattested"`
	// MasterVersion and KDF say from which master key, and how, the line's keys
	// are derived. They are part of every key's name, so a later profile may
	// move on while devices in the field keep theirs.
	MasterVersion uint32 `yaml:"master_version"`
	KDF           uint8  `yaml:"kdf"`
	// ModulesFolder holds the basic software modules that a station loads into
	// a device before its keys (the patent's step 2); "" where ROM has all.
	ModulesFolder string `yaml:"modules"`
	// Publish says where the certificates of the line's devices stand.
	Publish Publication `yaml:"publish"`
	// IdentityInCertificates has certificates say the device's identity.
	IdentityInCertificates bool `yaml:"identity_in_certificates"`
	// Entries are what a package holds, in the manifest's order.
	Entries []Entry `yaml:"entries"`

	modules []Module
}

// namePattern is what a product line may be called: it stands in certificates'
// URIs, metrics' labels and file names.
var namePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?$`)

// Load reads the profile of a file, lists its modules with their hashes and
// looks whether the files of its entries can be read. Relative paths in a
// profile are relative to its folder.
func Load(path string) (Profile, error) {
	data, err := readLimited(path, MaxSize)
	if err != nil {
		return Profile{}, fmt.Errorf("read profile: %w", err)
	}
	p, err := Parse(data, filepath.Dir(path))
	if err != nil {
		return Profile{}, fmt.Errorf("read profile %q: %w", path, err)
	}
	if p.modules, err = listModules(p.ModulesFolder); err != nil {
		return Profile{}, fmt.Errorf("read profile %q: %w", path, err)
	}
	for _, e := range p.Entries {
		if err := e.checkFile(); err != nil {
			return Profile{}, fmt.Errorf("read profile %q: entry %q: %w", path, e.Name, err)
		}
	}
	return p, nil
}

// Parse reads a profile and resolves its paths against folder. It opens no
// file: Modules is empty.
func Parse(data []byte, folder string) (Profile, error) {
	var p Profile
	if err := decode(data, &p); err != nil {
		return Profile{}, err
	}
	if err := p.check(); err != nil {
		return Profile{}, err
	}
	p.ModulesFolder = resolve(folder, p.ModulesFolder)
	for i := range p.Entries {
		p.Entries[i].File = resolve(folder, p.Entries[i].File)
	}
	return p, nil
}

// Modules lists the line's basic software modules, sorted by name.
func (p Profile) Modules() []Module { return append([]Module(nil), p.modules...) }

// KeyID names an entry in manifests: a derived key with KDF and master version,
// anything else by its name alone.
func (p Profile) KeyID(e Entry) keypackage.KeyID {
	if e.Source != Derived {
		return keypackage.KeyID{Name: e.Name}
	}
	return keypackage.KeyID{Name: e.Name, KDF: p.KDF, Version: p.MasterVersion}
}

func resolve(folder, path string) string {
	if path == "" || filepath.IsAbs(path) {
		return path
	}
	return filepath.Join(folder, path)
}

// readLimited reads a whole file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	return readAll(f, path, limit)
}
