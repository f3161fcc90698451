package main

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
)

// keyRing is the SPP's token with the maker's keys, complete. close ends it.
type keyRing struct {
	module *hsm.Module
	tok    *hsm.Token
	keys   *maker.Keys
}

// openKeyRing opens it and reads the keys' attributes back. It uses no key.
func openKeyRing(ctx context.Context, c Config) (keyRing, error) {
	module, tok, err := tokenconfig.Open(ctx, c.Realm, c.Token, false)
	if err != nil {
		return keyRing{}, err
	}
	keys, err := maker.Open(ctx, tok, c.Realm)
	if err != nil {
		return keyRing{}, errors.Join(err, module.Close())
	}
	return keyRing{module, tok, keys}, nil
}

func (r keyRing) close() error { return r.module.Close() }
