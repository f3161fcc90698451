package hsm

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/devicekeys/devicekeys/secret"
)

// softHSM is the manufacturer that production refuses: its keys lie in files.
const softHSM = "SoftHSM project"

// developmentLabel begins the label of every token made for development.
const developmentLabel = "dev-"

// defaultPINs are those of manuals and tutorials.
var defaultPINs = []string{
	"0000", "1111", "1234", "12345", "123456", "1234567", "12345678", "123456789", "1234567890",
	"00000000", "11111111", "87654321", "changeme", "default", "fred", "password", "secret", "userpin", "sopin", "test", "sopassword", "userpassword",
}

// usable refuses a token that can't be logged in to, or mustn't be in production,
// before any PIN is offered to it.
func (sl *slot) usable(production bool, pin secret.Secret) error {
	i := sl.info
	if pin.IsZero() {
		return fmt.Errorf("hsm: token %q: no PIN given: %w", i.Label, ErrPIN)
	}
	if !i.UserPIN {
		return fmt.Errorf("hsm: token %q has no user PIN, so its making was broken off: initialise it again under the same label: %w", i.Label, ErrPIN)
	}
	if i.Locked {
		return fmt.Errorf("hsm: token %q is locked after too many wrong PINs: the security officer must set a new one: %w", i.Label, ErrPIN)
	}
	if !production {
		return nil
	}
	return fitForProduction(i.Label, i.Manufacturer, pin)
}

func fitForProduction(label, manufacturer string, pin secret.Secret) error {
	switch {
	case manufacturer == softHSM:
		return fmt.Errorf("hsm: token %q is SoftHSM's, whose keys lie in files: use a hardware token: %w", label, ErrProduction)
	case strings.HasPrefix(label, developmentLabel):
		return fmt.Errorf("hsm: token %q carries a development label: make a token for production: %w", label, ErrProduction)
	case weakPIN(pin):
		return fmt.Errorf("hsm: token %q has a default or too short PIN: set one of eight characters or more: %w", label, ErrProduction)
	}
	return nil
}

func weakPIN(pin secret.Secret) bool {
	b := pin.Bytes()
	if len(b) < 8 || bytes.Count(b, b[:1]) == len(b) {
		return true
	}
	for _, d := range defaultPINs {
		if strings.EqualFold(string(b), d) {
			return true
		}
	}
	return false
}
