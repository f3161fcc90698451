// Package softhsm gives tests, demos and CI PKCS#11 tokens by SoftHSM: it finds the
// module, keeps token directories apart, and makes tokens, one or hundreds.
//
// In a test:
//
//	func TestWrap(t *testing.T) {
//		h := softhsm.New(t)            // skips without SoftHSM, fails if CI=true
//		device := h.Token(t, "device") // fresh, with PINs of its own
//		token := h.Open(t, device)     // closed at the end of t
//		key, err := token.Generate(t.Context(), hsm.Spec{Kind: hsm.ChipKey, Label: "chip", Token: true})
//		…
//	}
//
// # One directory per process
//
// SoftHSM reads the name of its configuration, and with it the token directory, from
// the environment when the module is initialised, and a process has one module. So a
// process has one directory at a time ([Directory.Attach]); all tests of a process share one,
// each with tokens of its own, which is what makes them safe to run in parallel. Two
// processes never share one by accident. A child process that needs tokens of its own
// gets another [Directory]: [Directory.InitToken] makes tokens in it without touching
// the module of this process, [Directory.Env] is the child's environment.
//
// # What is left
//
// Nothing, after tests that end: the last one closes the module and removes the
// directory, or [Main] does after all of them, which saves making it anew for each test
// that runs alone. A test process that is killed leaves its directory in the
// folder for temporary files; the next [New] on the machine removes it.
//
// # A token that fails
//
// [Shim] is a module that stands before SoftHSM's: it delays, counts and fails any call
// with any code, before its effect or after it, limits sessions, and takes the token away
// and puts it back, all from outside while programs run on it.
//
//	shim := softhsm.NewShim(t)
//	cmd.Env = append(directory.Env(), shim.Env()...) // and shim.Module() as its module
//	…
//	shim.Fail(softhsm.Rule{Function: "C_Sign", Code: pkcs11.CKR_DEVICE_ERROR})
//	shim.Lose(true)
//
// # What it is not
//
// SoftHSM's keys lie in files. Production refuses its tokens (see package hsm).
package softhsm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/secret"
)

// ErrNotInstalled: the module, or softhsm2-util, was not found; the message says which
// package to install.
var ErrNotInstalled = errors.New("softhsm is not installed")

// install names the package, which is called the same but on Fedora and Alpine.
const install = "install the package softhsm2 (Debian, Ubuntu), softhsm (Fedora, Alpine, Homebrew)"

// moduleVariable names the module's file where it is in none of the usual places.
const moduleVariable = "SOFTHSM2_MODULE"

// modulePlaces are where distributions put the module.
var modulePlaces = []string{
	"/usr/lib/softhsm/libsofthsm2.so",          // Debian, Ubuntu; Alpine
	"/usr/lib/*/softhsm/libsofthsm2.so",        // Debian, Ubuntu by architecture
	"/usr/lib64/pkcs11/libsofthsm2.so",         // Fedora and relatives
	"/usr/lib64/softhsm/libsofthsm2.so",        //
	"/usr/lib/pkcs11/libsofthsm2.so",           // Arch
	"/usr/local/lib/softhsm/libsofthsm2.so",    // from source; Homebrew, Intel
	"/usr/local/lib64/softhsm/libsofthsm2.so",  //
	"/opt/homebrew/lib/softhsm/libsofthsm2.so", // Homebrew, Apple silicon
	"/opt/local/lib/softhsm/libsofthsm2.so",    // MacPorts
	"/usr/pkg/lib/softhsm/libsofthsm2.so",      // pkgsrc
}

// Module finds SoftHSM's PKCS#11 module: the file that $SOFTHSM2_MODULE names, or one
// of the places where Debian, Ubuntu, Fedora, Alpine and macOS have it.
// errors.Is(err, [ErrNotInstalled]).
func Module() (string, error) {
	if path := os.Getenv(moduleVariable); path != "" {
		if !regular(path) {
			return "", fmt.Errorf("find SoftHSM: %w: $%s is %q, which is no file: correct or unset it", ErrNotInstalled, moduleVariable, path)
		}
		return filepath.Abs(path)
	}
	for _, pattern := range modulePlaces {
		found, _ := filepath.Glob(pattern) // fails only on a bad pattern
		for _, path := range found {
			if regular(path) {
				return path, nil
			}
		}
	}
	return "", fmt.Errorf("find SoftHSM: %w: no libsofthsm2.so in the usual places: %s, or set $%s to the file", ErrNotInstalled, install, moduleVariable)
}

func regular(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular()
}

// A Token is a token made by this package, and its PINs.
type Token struct {
	Label  string // unique in its directory
	Serial string // 16 hexadecimal digits
	PIN    secret.Secret
	SOPIN  secret.Secret
}

// pinBytes is the randomness in a PIN: 120 bits, 24 characters.
const pinBytes = 15

// Ref names the token by label and serial number.
func (t Token) Ref() hsm.TokenRef { return hsm.TokenRef{Label: t.Label, Serial: t.Serial} }

// Credentials are what [hsm.Module.Open] asks for.
func (t Token) Credentials() hsm.Credentials {
	return hsm.Credentials{Token: t.Ref(), PIN: t.PIN}
}
