package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/cmd/internal/tokenconfig"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
)

// pinBytes are the random bytes of a development PIN: 100 bits, 20 characters, within what SoftHSM and most HSMs take.
const pinBytes = 13

// ensureToken initialises the token in the development realm if no token has its label; it reports whether it did.
// before is called ahead of that. PIN files are written first: a crash after them leaves files without a token, and
// the next run uses them; one inside leaves a token without user PIN, which the next run finishes with the same
// security officer PIN, or one that can't be finished, which it sweeps away.
func ensureToken(ctx context.Context, realm identity.Realm, c tokenconfig.Config, soPINFile string, before func() error) (made bool, err error) {
	path, err := c.ModulePath(realm)
	if err != nil {
		return false, err
	}
	if err := tokenconfig.Sweep(realm, c.LockFile.String()); err != nil {
		return false, err
	}
	// Without crypto11, which wants a token to exist.
	module, err := hsm.Load(ctx, hsm.Config{Path: path, LockFile: c.LockFile.String(), Production: realm == identity.Production})
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, module.Close()) }()
	tokens, err := module.Tokens(ctx)
	if err != nil {
		return false, err
	}
	// A token without user PIN is one whose making was broken off.
	if slices.ContainsFunc(tokens, func(i hsm.TokenInfo) bool {
		return i.UserPIN && (c.Token == "" || i.Label == c.Token) && (c.Serial == "" || i.Serial == c.Serial)
	}) {
		return false, nil
	}
	switch {
	case c.Token == "" || c.Serial != "":
		return false, console.Hint(fmt.Errorf("there is no token %s", c.Ref()), "to make one, name its label and no serial number, which it will get")
	case realm != identity.Development:
		return false, console.Hint(fmt.Errorf("there is no token %s", c.Ref()), "initialise it with the HSM's own tool: tokens of the %s realm are not made here", realm)
	case len(c.Token) <= len(realm.Prefix()) || c.Token[:len(realm.Prefix())] != realm.Prefix():
		return false, console.Usagef("token %q: labels of the %s realm begin with %q", c.Token, realm, realm.Prefix())
	}
	if err := before(); err != nil {
		return false, err
	}
	so, err := ensurePIN(soPINFile)
	if err != nil {
		return false, err
	}
	pin, err := ensurePIN(c.PINFile.String())
	if err != nil {
		return false, err
	}
	if _, err := module.InitToken(ctx, c.Token, so, pin); err != nil {
		return false, console.Hint(err, "check that SOFTHSM2_CONF names a configuration whose token directory exists and is writable")
	}
	return true, nil
}

// ensurePIN reads a PIN file, or makes one with a random PIN.
func ensurePIN(path string) (secret.Secret, error) {
	err := secret.WriteFile(path, secret.Random(pinBytes))
	if err != nil && !errors.Is(err, secret.ErrExist) {
		return secret.Secret{}, err
	}
	return secret.ReadFile(path)
}

// ensureKey finds a key or generates it.
func ensureKey(ctx context.Context, tok *hsm.Token, s hsm.Spec) (*hsm.Key, error) {
	k, err := tok.Find(ctx, s)
	if !errors.Is(err, hsm.ErrNoKey) {
		return k, err
	}
	return tok.Generate(ctx, s)
}
