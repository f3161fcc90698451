package maker

import (
	"context"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/identity"
)

// Plan is what a set-up makes.
type Plan struct {
	Realm    identity.Realm
	Masters  []Master // at least one, versions distinct
	Purposes []string // at least one; each is derived from each master key

	// Before, if set, is called before each act that needs an entry in the audit log, and the act is left undone
	// when it fails: no entry, no act. A repeated Create reports only what it still has to do.
	Before func(ctx context.Context, a Act) error
}

// Master is one version of the master key with the one KDF it will ever be used with.
type Master struct {
	Version uint32 // from 1
	KDF     hsm.KDF
}

// Act is the birth of a key, or a use of a master key.
type Act struct {
	Key  string // label of the key that is made or used: "dev-master-1"
	What string // "generate", "derive purpose key dev-purpose-channel-1"
}

func (p Plan) check() error {
	switch {
	case p.Realm == identity.Production:
		// A key that must survive its HSM is generated as an extractable session key in a ceremony, wrapped under the
		// backup key, unwrapped as a non-extractable token key, and the session key destroyed (docs/design.md).
		// Generating one inside, as Create does, would leave it without backup for good.
		return errors.New("production keys are born in a ceremony, with a backup; this makes development keys only: set realm to development")
	case !p.Realm.Valid():
		return fmt.Errorf("%s is not a realm", p.Realm)
	case len(p.Masters) == 0 || len(p.Purposes) == 0:
		return fmt.Errorf("%d master keys and %d purposes are planned: at least one of each is needed", len(p.Masters), len(p.Purposes))
	}
	versions := map[uint32]bool{}
	for _, m := range p.Masters {
		if m.Version == 0 || versions[m.Version] {
			return fmt.Errorf("master version %d: versions count from 1 and stand once", m.Version)
		}
		if m.KDF != hsm.KDF1 && m.KDF != hsm.KDF2 {
			return fmt.Errorf("master version %d: KDF %d is not known, 1 and 2 are", m.Version, m.KDF)
		}
		versions[m.Version] = true
	}
	purposes := map[string]bool{}
	for _, n := range p.Purposes {
		if err := checkPurpose(n); err != nil {
			return err
		}
		if purposes[n] {
			return fmt.Errorf("purpose %q stands twice", n)
		}
		purposes[n] = true
	}
	return nil
}

func (m Master) spec(realm identity.Realm) hsm.Spec {
	return hsm.Spec{Kind: hsm.MasterKey, Label: MasterLabel(realm, m.Version), Token: true, KDF: m.KDF}
}

// Born gives the keys that Create generates, in their order; purpose keys, which are derived, are not among them.
func (p Plan) Born() []hsm.Spec {
	all := fixedSpecs(p.Realm)
	for _, m := range p.Masters {
		all = append(all, m.spec(p.Realm))
	}
	return all
}

// Create makes the maker's keys in the SPP's token, those of the plan that are not there yet: nothing is overwritten,
// and running it again, also after a crash at any point, completes the set. A planned KDF that differs from the one
// a master version was born with is an error. One Create at a time works on a token.
//
// It makes development keys: generated inside the token, not extractable, and so without a backup. In production
// Create refuses, since keys that must survive their HSM are born in a ceremony; everything behind the birth
// (records, purpose keys, checks) is the same there.
func Create(ctx context.Context, tok *hsm.Token, p Plan) error {
	if err := p.check(); err != nil {
		return fmt.Errorf("create the maker's keys: %w", err)
	}
	if p.Before == nil {
		p.Before = func(context.Context, Act) error { return nil }
	}
	c := creation{tok: tok, plan: p}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("create the maker's keys in token %q: %w", tok.Info().Label, err)
	}
	return nil
}

// creation is one run of Create.
type creation struct {
	tok     *hsm.Token
	plan    Plan
	records records
}

func (c *creation) run(ctx context.Context) error {
	// A crash while a token object was written leaves half of it, which holds no key. Sweep removes such halves, and
	// a crash during it leaves fewer of them.
	if _, err := c.tok.Sweep(ctx); err != nil {
		return err
	}
	var err error
	if c.records, err = readRecords(ctx, c.tok, c.plan.Realm); err != nil {
		return err
	}
	made := map[string]*hsm.Key{}
	for i, s := range fixedSpecs(c.plan.Realm) {
		f := fixed[i]
		if made[f.name], err = c.key(ctx, s, made[f.from]); err != nil {
			return err
		}
	}
	for _, m := range c.plan.Masters {
		if err := c.master(ctx, m); err != nil {
			return err
		}
	}
	return nil
}

// key finds a key or makes it: generates it, or copies it from another. A crash right after that leaves a whole key,
// which the next run finds; a crash inside leaves half of one, which the next run's sweep removes.
func (c *creation) key(ctx context.Context, s hsm.Spec, from *hsm.Key) (*hsm.Key, error) {
	k, err := c.tok.Find(ctx, s)
	if !errors.Is(err, hsm.ErrNoKey) {
		return k, err
	}
	if from != nil {
		if err := c.plan.Before(ctx, Act{Key: s.Label, What: "copy " + from.Label()}); err != nil {
			return nil, fmt.Errorf("copy %q: %w", from.Label(), err)
		}
		return c.tok.Copy(ctx, from, s)
	}
	if err := c.plan.Before(ctx, Act{Key: s.Label, What: "generate"}); err != nil {
		return nil, fmt.Errorf("generate %q: %w", s.Label, err)
	}
	return c.tok.Generate(ctx, s)
}

// master makes one version of the master key, its record and its purpose keys.
func (c *creation) master(ctx context.Context, m Master) error {
	r := record{Version: recordVersion, Realm: c.plan.Realm, Master: m.Version, KDF: m.KDF}
	before, recorded := c.records[r.label()]
	if recorded && before.KDF != m.KDF {
		return fmt.Errorf("master key %q was born with KDF %d and is planned with KDF %d: plan a new version for another KDF", r.label(), before.KDF, m.KDF)
	}
	spec := m.spec(c.plan.Realm)
	var key *hsm.Key
	var err error
	if recorded {
		// Its devices' keys depend on it: a recorded master that is gone is restored, never made anew.
		if key, err = c.tok.Find(ctx, spec); errors.Is(err, hsm.ErrNoKey) {
			return fmt.Errorf("%w: %q is recorded and was used; restore the token from its backup", err, r.label())
		}
	} else {
		key, err = c.key(ctx, spec, nil)
	}
	if err != nil {
		return err
	}
	if !recorded {
		if err := r.write(ctx, c.tok); err != nil {
			return err
		}
	}
	for _, purpose := range c.plan.Purposes {
		if err := c.purpose(ctx, key, m, purpose); err != nil {
			return err
		}
	}
	return nil
}
