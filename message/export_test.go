package message

import (
	"context"
	"crypto/ecdh"
	"crypto/hpke"

	"github.com/devicekeys/devicekeys/detcbor"
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

// Again reads a message's frame and writes what it read.
func Again(raw []byte) ([]byte, error) {
	e, err := parseEnvelope(raw)
	if err != nil {
		return nil, err
	}
	return detcbor.Marshal(e)
}
