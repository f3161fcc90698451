package checktest

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"fmt"
	"sync/atomic"
	"testing"

	"github.com/devicekeys/devicekeys/audit/check"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/statement"
)

// SoftKeys is a Maker without an HSM, for tests of what is around keys.
type SoftKeys struct {
	Items   []check.Key  // what Inventory answers
	Used    atomic.Int64 // device keys derived
	Derived atomic.Int64 // device keys derived and not destroyed

	rom, audit registrytest.Signer
}

// NewSoftKeys makes the keys; each call makes the same ones.
func NewSoftKeys(t testing.TB) *SoftKeys {
	return &SoftKeys{rom: registrytest.ROM(t), audit: registrytest.NewSigner(t, "audit"), Items: []check.Key{
		{Label: "dev-master-1", Secret: true, Token: true, Sensitive: true},
		{Label: "dev-identity-signing", Secret: true, Token: true, Sensitive: true},
		{Label: "dev-identity-signing"},
	}}
}

// ROMKey gives the identity-signing key's public half.
func (k *SoftKeys) ROMKey() statement.PublicKey { return k.rom.Public() }

// AuditKey gives the audit key's public half.
func (k *SoftKeys) AuditKey() statement.PublicKey { return k.audit.Public() }

// DeviceKey gives a key that is its own context.
func (k *SoftKeys) DeviceKey(_ context.Context, key keypackage.KeyID, context []byte) (keypackage.MACKey, error) {
	if key != channelKey {
		return nil, fmt.Errorf("no key %s", key)
	}
	k.Used.Add(1)
	k.Derived.Add(1)
	return softKey{k, context}, nil
}

// Inventory gives Items.
func (k *SoftKeys) Inventory(context.Context) ([]check.Key, error) { return k.Items, nil }

// SignCertificate signs claims.
func (k *SoftKeys) SignCertificate(ctx context.Context, claims []byte) (identity.Certificate, error) {
	return identity.SignCertificate(ctx, k.rom, claims)
}

// SignUnlock signs an unlock statement.
func (k *SoftKeys) SignUnlock(ctx context.Context, u identity.Unlock) ([]byte, error) {
	return identity.SignUnlock(ctx, k.rom, u)
}

// SignRegistryStatement signs a scrap or erase entry's leaf.
func (k *SoftKeys) SignRegistryStatement(ctx context.Context, leaf []byte) ([]byte, error) {
	return statement.Sign(ctx, k.rom, statement.Registry, leaf)
}

// SignAuditHead signs a head of the audit log.
func (k *SoftKeys) SignAuditHead(ctx context.Context, payload []byte) ([]byte, error) {
	return statement.Sign(ctx, k.audit, statement.AuditHead, payload)
}

type softKey struct {
	keys *SoftKeys
	key  []byte
}

func (k softKey) MAC(_ context.Context, msg []byte) ([]byte, error) {
	h := hmac.New(sha256.New, k.key)
	h.Write(msg)
	return h.Sum(nil), nil
}

func (k softKey) Verify(ctx context.Context, msg, mac []byte) error {
	if want, _ := k.MAC(ctx, msg); !hmac.Equal(want, mac) {
		return statement.ErrSignature
	}
	return nil
}

func (k softKey) Destroy(context.Context) error {
	k.keys.Derived.Add(-1)
	return nil
}
