package message

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"
)

// PrivateKey lends an Agreer to crypto/hpke, as Open does.
func PrivateKey(ctx context.Context, key Agreer, point []byte) (hpke.PrivateKey, error) {
	public, err := ecdh.P256().NewPublicKey(point)
	if err != nil {
		return nil, err
	}
	return hpke.NewDHKEMPrivateKey(&exchanger{ctx: ctx, key: key, public: public})
}

// Info and AAD are the two inputs of HPKE.
var (
	Info = info
	AAD  = aad
)
