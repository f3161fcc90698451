package hsm

import (
	"crypto/rand"
	"crypto/subtle"
	"sync"
)

// nonceStock is how many nonces are drawn from the token in one call.
const nonceStock = 64

// nonces gives AES-GCM nonces: random bytes of the token, drawn in stock since each draw
// is a call, combined with as many of the kernel's. The kernel's make a nonce new even
// where the stock is used twice, in a virtual machine that was set back to a snapshot: a
// nonce that comes again under one key gives the plaintexts' difference away.
type nonces struct {
	lib *library

	mu    sync.Mutex // guards stock; held while the token is asked
	stock []byte
}

// take gives a nonce that it gives nobody else.
func (n *nonces) take(s *session) ([]byte, error) {
	nonce := make([]byte, NonceSize)
	rand.Read(nonce) // never fails
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.stock) < NonceSize {
		b, err := n.lib.random(s.handle, nonceStock*NonceSize)
		if err != nil {
			return nil, err
		}
		n.stock = b
	}
	subtle.XORBytes(nonce, nonce, n.stock)
	clear(n.stock[:NonceSize])
	n.stock = n.stock[NonceSize:]
	return nonce, nil
}
