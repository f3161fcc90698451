// Package chipidfile reads a chip ID from the file that commands of a device's owner are given. Knowing a chip ID is
// what entitles one to a record, so the file is read as a secret and no error repeats what is in it.
package chipidfile

import (
	"encoding/hex"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/secret"
)

// Read reads a chip ID in hexadecimal from a file that only its owner may read, or from "fd:N" (secret.ReadFile).
func Read(path string) (identity.ChipID, error) {
	text, err := secret.ReadFile(path)
	if err != nil {
		return identity.ChipID{}, err
	}
	raw, err := hex.DecodeString(string(text.Bytes()))
	if err != nil {
		return identity.ChipID{}, fmt.Errorf("read chip ID %q: it is not hexadecimal", path)
	}
	chip, err := identity.ParseChipID(raw)
	if err != nil {
		return identity.ChipID{}, fmt.Errorf("read %q: %w", path, err)
	}
	return chip, nil
}
