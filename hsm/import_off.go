//go:build !devicekeys_import

package hsm

// imports: only a build for tests accepts keys from known bytes.
const imports = false
