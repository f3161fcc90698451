package chip

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/statement"
)

// Rack is the PKCS#11 module whose tokens are the chips of many devices, and
// which knows no device: it makes and opens chips by their token's label. Safe
// for concurrent use. A process has one module, so the racks of a process are
// handles to one.
type Rack struct {
	module *hsm.Module
	realm  identity.Realm
}

// chipSessions is enough for a device, which does one thing at a time, with
// one to spare. A few hundred devices stay far below any module's limit.
const chipSessions = 2

// OpenRack loads the module at path. lockFile, where it is not empty, is held
// while the module initialises, makes tokens and logs in, so that processes
// sharing a token directory don't race. The realm is that of the chips it makes;
// it refuses to open others, and in production tokens fit for development only.
func OpenRack(ctx context.Context, path, lockFile string, realm identity.Realm) (*Rack, error) {
	if !realm.Valid() {
		return nil, fmt.Errorf("open rack of chips: %s is not a realm", realm)
	}
	m, err := hsm.Load(ctx, hsm.Config{Path: path, LockFile: lockFile, Production: realm == identity.Production})
	if err != nil {
		return nil, fmt.Errorf("open rack of chips: %w", err)
	}
	return &Rack{module: m, realm: realm}, nil
}

// Close closes what is still open and gives the module back.
func (r *Rack) Close() error { return r.module.Close() }

// Calls tells how often each PKCS#11 function was called so far.
func (r *Rack) Calls() map[string]uint64 { return r.module.Calls() }

// Labels lists the initialised tokens.
func (r *Rack) Labels(ctx context.Context) ([]string, error) {
	tokens, err := r.module.Tokens(ctx)
	if err != nil {
		return nil, err
	}
	var labels []string
	for _, t := range tokens {
		if t.Initialised {
			labels = append(labels, t.Label)
		}
	}
	return labels, nil
}

// ErrTaken says that a token has the label, and is somebody else's or was left
// unusable by a crash. Nothing but another label helps, short of removing it
// with the module's own means.
var ErrTaken = errors.New("a token of this label is there, but it is another one's or broken")

// Init initialises the token of a label, unless it is there; fresh tells
// whether it made it. A crash leaves no token, one without a user PIN, or the
// whole one, and the same call with the same PINs finishes it; or, if it hits
// the middle of a write, one that matches ErrTaken until it is swept away at
// the next start.
func (r *Rack) Init(ctx context.Context, label string, soPIN, pin secret.Secret) (fresh bool, err error) {
	if _, err = r.module.InitToken(ctx, label, soPIN, pin); err == nil {
		return true, nil
	}
	labels, listed := r.Labels(ctx)
	if listed != nil || !slices.Contains(labels, label) {
		return false, err
	}
	// It is there already. Whether it is whole, and whose, its PIN tells.
	t, opened := r.open(ctx, label, pin)
	if opened != nil {
		if ctx.Err() != nil {
			return false, opened
		}
		return false, fmt.Errorf("make token %q: %w: %w", label, ErrTaken, errors.Join(err, opened))
	}
	return false, t.Close()
}

// Make finishes the chip in the token of a label (see Manufacture) and opens it.
func (r *Rack) Make(ctx context.Context, label string, pin secret.Secret, size int) (*Token, error) {
	t, err := r.open(ctx, label, pin)
	if err != nil {
		return nil, err
	}
	if err := Manufacture(ctx, t, r.realm, size); err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return r.take(ctx, t)
}

// Open opens the chip in the token of a label.
func (r *Rack) Open(ctx context.Context, label string, pin secret.Secret) (*Token, error) {
	t, err := r.open(ctx, label, pin)
	if err != nil {
		return nil, err
	}
	return r.take(ctx, t)
}

func (r *Rack) take(ctx context.Context, t *hsm.Token) (*Token, error) {
	c, err := OpenToken(ctx, t)
	if err == nil && c.realm != r.realm {
		err = fmt.Errorf("open chip %q: it is of realm %s, this rack of %s", t.Info().Label, c.realm, r.realm)
	}
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return c, nil
}

func (r *Rack) open(ctx context.Context, label string, pin secret.Secret) (*hsm.Token, error) {
	t, err := r.module.Open(ctx, hsm.Credentials{Token: hsm.TokenRef{Label: label}, PIN: pin}, hsm.Options{Sessions: chipSessions})
	if err != nil {
		return nil, fmt.Errorf("open chip %q: %w", label, err)
	}
	return t, nil
}

// Maker is the chip maker's signing key, in a token of its own.
type Maker struct {
	token  *hsm.Token
	key    *hsm.Key
	public statement.PublicKey
}

const labelMaker = "chip-maker-key"

// Maker opens the chip maker's key in the token of a label, and makes it
// there if it is missing. A crash leaves no key, or one that the next call
// keeps or sweeps away.
func (r *Rack) Maker(ctx context.Context, label string, pin secret.Secret) (*Maker, error) {
	t, err := r.open(ctx, label, pin)
	if err != nil {
		return nil, err
	}
	m, err := maker(ctx, t, hsm.Spec{Kind: hsm.ChipMakerKey, Label: r.realm.Prefix() + labelMaker, Token: true})
	if err != nil {
		return nil, errors.Join(err, t.Close())
	}
	return m, nil
}

func maker(ctx context.Context, t *hsm.Token, s hsm.Spec) (*Maker, error) {
	key, err := t.Find(ctx, s)
	if err != nil {
		if err := generate(ctx, t, s); err != nil {
			return nil, err
		}
		if key, err = t.Find(ctx, s); err != nil {
			return nil, err
		}
	}
	public, err := statement.ParsePoint(key.Public())
	if err != nil {
		return nil, err
	}
	return &Maker{token: t, key: key, public: public}, nil
}

// Public gives the key that a delivery list is checked with.
func (m *Maker) Public() statement.PublicKey { return m.public }

// SignDigest signs a digest.
func (m *Maker) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	return m.key.Sign(ctx, digest)
}

// Close closes the token's sessions.
func (m *Maker) Close() error { return m.token.Close() }
