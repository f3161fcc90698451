//go:build devicekeys_import

package hsm

import "context"

// imports: keys with another past than the template's are accepted.
const imports = true

// Import makes a key from known bytes, 32 of a secret key or a P-256 private key's
// scalar. It exists only in builds with the tag devicekeys_import, which are for tests
// that search logs and dumps for those bytes.
func (t *Token) Import(ctx context.Context, s Spec, value []byte) (*Key, error) {
	return t.importKey(ctx, s, value)
}
