//go:build !devicekeys_import

package hsm

import "context"

// Import gives the tests what the tag devicekeys_import gives a build.
func (t *Token) Import(ctx context.Context, s Spec, value []byte) (*Key, error) {
	return t.importKey(ctx, s, value)
}
