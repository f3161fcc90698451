package chip

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	"sync"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/statement"
)

// Software is a chip in this process's memory, for generating load: many
// thousands of devices without a token each. It computes what a token chip
// computes and protects nothing: its keys are in the process's memory and, if
// it has a file, in that file in clear. Describe says so, and a device in
// production refuses it.
type Software struct {
	attestation *ecdsa.PrivateKey
	public      statement.PublicKey

	mu    sync.Mutex // guards state
	state softwareState
	path  string // "": lives in memory only
}

var _ Chip = (*Software)(nil)

// NewSoftware makes a chip as a chip maker would: with a chip ID of size (16,
// 24 or 32) random bytes, a fresh chip key and a fresh attestation key. With a
// path it is kept in that file, which must not exist.
func NewSoftware(realm identity.Realm, size int, path string) (*Software, error) {
	if realm != identity.Development {
		return nil, fmt.Errorf("make software chip: it generates load in realm %s, %s is refused", identity.Development, realm)
	}
	id := make([]byte, size)
	rand.Read(id) // never fails: see crypto/rand
	if _, err := identity.ParseChipID(id); err != nil {
		return nil, fmt.Errorf("make software chip: %w", err)
	}
	attestation, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make software chip: %w", err)
	}
	scalar, err := attestation.Bytes()
	if err != nil {
		return nil, fmt.Errorf("make software chip: %w", err)
	}
	key := make([]byte, 32)
	rand.Read(key)
	state := softwareState{Version: softwareVersion, Realm: realm, ChipID: id, ChipKey: key, Attestation: scalar, ROMKey: []byte{}}
	if path != "" {
		if err := state.create(path); err != nil {
			return nil, err
		}
	}
	return newSoftware(state, path)
}

// OpenSoftware reads a chip from its file.
func OpenSoftware(path string) (*Software, error) {
	state, err := readSoftwareState(path)
	if err != nil {
		return nil, err
	}
	return newSoftware(state, path)
}

func newSoftware(state softwareState, path string) (*Software, error) {
	attestation, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), state.Attestation)
	if err != nil {
		return nil, fmt.Errorf("open software chip: attestation key: %w", err)
	}
	public, err := statement.FromECDSA(&attestation.PublicKey)
	if err != nil {
		return nil, fmt.Errorf("open software chip: attestation key: %w", err)
	}
	if err := state.check(); err != nil {
		return nil, fmt.Errorf("open software chip: %w", err)
	}
	return &Software{attestation: attestation, public: public, state: state, path: path}, nil
}

// Describe says that this is software.
func (c *Software) Describe() Description {
	return Description{Software: true, Manufacturer: "software chip: load generation only, protects nothing"}
}

// Realm gives the realm the chip was made for.
func (c *Software) Realm() identity.Realm {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.Realm
}

// ID gives the chip ID.
func (c *Software) ID() identity.ChipID {
	c.mu.Lock()
	defer c.mu.Unlock()
	id, _ := identity.ParseChipID(c.state.ChipID) // newSoftware parsed it
	return id
}

// Attester signs with the attestation key.
func (c *Software) Attester() statement.Signer { return softwareAttester{c} }

type softwareAttester struct{ chip *Software }

func (a softwareAttester) Public() statement.PublicKey { return a.chip.public }

func (a softwareAttester) SignDigest(_ context.Context, digest []byte) ([]byte, error) {
	return signRaw(a.chip.attestation, digest)
}

// signRaw gives r‖s, 64 bytes.
func signRaw(k *ecdsa.PrivateKey, digest []byte) ([]byte, error) {
	r, s, err := ecdsa.Sign(rand.Reader, k, digest)
	if err != nil {
		return nil, fmt.Errorf("sign: %w", err)
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}

// ROMKey gives the key in ROM.
func (c *Software) ROMKey(context.Context) (statement.PublicKey, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state.romKey()
}

// WriteROMKey writes it once.
func (c *Software) WriteROMKey(_ context.Context, key statement.PublicKey) error {
	if key.IsZero() {
		return fmt.Errorf("write ROM key: there is no key")
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old, err := c.state.romKey()
	if err != nil {
		return err
	}
	if old == key {
		return nil
	}
	if !old.IsZero() {
		return fmt.Errorf("write ROM key: %w", ErrWritten)
	}
	next := c.state
	next.ROMKey = key.Point()
	return c.replace(next)
}

// Fuses reads lock and floor.
func (c *Software) Fuses(context.Context) (Fuses, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Fuses{Locked: c.state.Locked, Floor: c.state.Floor}, nil
}

// RaiseFloor sets the floor unless it is as high already.
func (c *Software) RaiseFloor(_ context.Context, floor identity.Generation) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if floor <= c.state.Floor {
		return nil
	}
	next := c.state
	next.Floor = floor
	return c.replace(next)
}

// Lock locks the chip.
func (c *Software) Lock(context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state.Locked {
		return nil
	}
	next := c.state
	next.Locked = true
	return c.replace(next)
}

// replace makes next the chip's state, in its file first: a crash leaves the
// old state or the new one. c.mu is held.
func (c *Software) replace(next softwareState) error {
	if c.path != "" {
		if err := next.write(c.path); err != nil {
			return err
		}
	}
	c.state = next
	return nil
}

// Close does nothing: a software chip has no sessions. Its keys are the
// garbage collector's.
func (c *Software) Close(context.Context) error { return nil }
