package maker

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Purpose names a purpose key and how keys are derived from it.
type Purpose struct {
	Realm   identity.Realm
	Name    string // "channel"
	Version uint32 // of the master key
	KDF     hsm.KDF
}

// TransportLabel is what a purpose key travels as.
func (p Purpose) TransportLabel() string {
	return fmt.Sprintf("purpose/%s/%d/%d", p.Name, p.Version, p.KDF)
}

// ParseTransportLabel reads what TransportLabel gives.
func ParseTransportLabel(realm identity.Realm, label string) (Purpose, error) {
	p := Purpose{Realm: realm}
	var rest string
	if n, err := fmt.Sscanf(label, "purpose/%s", &rest); n != 1 || err != nil {
		return p, fmt.Errorf("%q is no purpose key", label)
	}
	for i := range rest {
		if rest[i] == '/' {
			p.Name, rest = rest[:i], rest[i+1:]
			break
		}
	}
	if n, err := fmt.Sscanf(rest, "%d/%d", &p.Version, &p.KDF); n != 2 || err != nil || p.TransportLabel() != label {
		return p, fmt.Errorf("%q is no purpose key", label)
	}
	if p.Version == 0 || p.KDF != hsm.KDF1 && p.KDF != hsm.KDF2 {
		return p, fmt.Errorf("%q: master version %d with KDF %d is not possible", label, p.Version, p.KDF)
	}
	return p, checkPurpose(p.Name)
}

// Label is the purpose key's label in any token.
func (p Purpose) Label() string { return PurposeLabel(p.Realm, p.Name, p.Version) }

// ExportPurpose derives a purpose key once more, as a session object that may leave the token, and wraps it to another
// HSM's transport key. The resident one stays what it is. check is for two people to compare: what CheckPurpose gives
// over there. An audit entry for this use of the master key is committed before the call. A crash leaves nothing.
func ExportPurpose(ctx context.Context, tok *hsm.Token, realm identity.Realm, name string, version uint32, to statement.PublicKey) (blob []byte, check string, err error) {
	fail := func(err error) ([]byte, string, error) {
		return nil, "", fmt.Errorf("export purpose key %q of master version %d: %w", name, version, err)
	}
	all, err := readRecords(ctx, tok, realm)
	if err != nil {
		return fail(err)
	}
	r, ok := all[PurposeLabel(realm, name, version)]
	if !ok {
		return fail(fmt.Errorf("%w: the token has no such purpose key: a ceremony derives it (custodian setup in the development realm)", hsm.ErrNoKey))
	}
	p := Purpose{Realm: realm, Name: name, Version: version, KDF: r.KDF}
	master, err := tok.Find(ctx, Master{Version: version, KDF: r.KDF}.spec(realm))
	if err != nil {
		return fail(err)
	}
	twin, err := tok.Derive(ctx, master, r.KDF, keypackage.PurposeContext(realm, uint8(r.KDF), version, name), hsm.Spec{Kind: hsm.PurposeTwin, KDF: r.KDF})
	if err != nil {
		return fail(err)
	}
	defer func() { err = errors.Join(err, destroy(context.WithoutCancel(ctx), twin)) }()
	if check, err = CheckPurpose(ctx, tok, twin, p); err != nil {
		return fail(err)
	}
	if blob, err = transport.Wrap(ctx, tok, realm, to, p.TransportLabel(), twin); err != nil {
		return fail(err)
	}
	return blob, check, nil
}

// CheckPurpose gives what tells one purpose key from another: 16 bytes of a MAC under a key derived from it, in hex.
// The key serves nothing else: its context has a label of its own.
func CheckPurpose(ctx context.Context, tok *hsm.Token, key *hsm.Key, p Purpose) (check string, err error) {
	label := detcbor.Array("dk-purpose-export", 1, p.Realm, p.KDF, p.Version, p.Name)
	k, err := tok.Derive(ctx, key, p.KDF, label, hsm.Spec{Kind: hsm.DeviceKey})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, destroy(context.WithoutCancel(ctx), k)) }()
	mac, err := k.MAC(ctx, label)
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(mac[:16]), nil
}
