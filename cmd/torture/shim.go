package main

import (
	"context"
	"errors"
	"os"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/plant"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/softhsm"
)

// shim is the module between an SPP and its token.
type shim struct {
	*softhsm.Shim
	dir string
}

func newShim(ctx context.Context, dir string) (*shim, error) {
	s, err := softhsm.BuildShim(ctx, dir)
	if err != nil {
		return nil, err
	}
	return &shim{s, dir}, nil
}

func (s *shim) forProgram() plant.Module { return plant.Module{Path: s.Module(), Env: s.Env()} }

func (s *shim) close() error { return errors.Join(s.Close(), os.RemoveAll(s.dir)) }

// deviceError is CKR_DEVICE_ERROR of PKCS#11 v2.40: something is wrong with the token.
const deviceError hsm.Code = 0x30

// failing calls in a row, enough for some to hit an assembly and too few to be for ever.
const failing = 5

// failNext fails the next calls, before the real one is made or after it.
func (s *shim) failNext(after bool) error {
	return s.Fail(softhsm.Rule{Code: deviceError, To: failing, After: after})
}

// slow has every call take its time, as one across a network does.
func (s *shim) slow(d time.Duration) error { return s.Delay("", d) }
