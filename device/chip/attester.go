package chip

import (
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/statement"
)

// Attester signs with the attestation key.
func (c *Token) Attester() statement.Signer { return &attester{chip: c} }

// attester finds the key at its first use, for a device that boots and never
// says hello again has no need of it.
type attester struct{ chip *Token }

// Public gives the public half, the zero value where the key is not found:
// statement.Sign refuses that, and SignDigest says why.
func (a *attester) Public() statement.PublicKey {
	// A look at an own token; the session pool bounds the wait.
	k, err := a.key(context.Background())
	if err != nil {
		return statement.PublicKey{}
	}
	public, err := statement.ParsePoint(k.Public())
	if err != nil {
		return statement.PublicKey{}
	}
	return public
}

func (a *attester) SignDigest(ctx context.Context, digest []byte) ([]byte, error) {
	k, err := a.key(ctx)
	if err != nil {
		return nil, fmt.Errorf("attest: %w", err)
	}
	return k.Sign(ctx, digest)
}

func (a *attester) key(ctx context.Context) (*hsm.Key, error) {
	return a.chip.find(ctx, &a.chip.attestation, hsm.Spec{Kind: hsm.AttestationKey, Label: a.chip.label(labelAttestation)})
}
