//go:build devicekeys_import

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
)

// importFolder names the variable with a folder of known keys: files named by label ("dev-master-1"), each with 64
// hexadecimal digits, 32 bytes of a secret key or a P-256 scalar. It exists in builds with the tag devicekeys_import
// only, which are for tests that search every log, dump and database for those bytes.
const importFolder = "DEVICEKEYS_IMPORT"

// importKeys puts the known keys of the plan that are not there yet into the token, so that Create finds them.
func importKeys(ctx context.Context, tok *hsm.Token, p maker.Plan) error {
	folder := os.Getenv(importFolder)
	if folder == "" {
		return nil
	}
	for _, s := range p.Born() {
		text, err := readFile(filepath.Join(folder, s.Label))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		value, err := hex.DecodeString(strings.TrimSpace(string(text)))
		if err != nil {
			return fmt.Errorf("import %q: 64 hexadecimal digits are expected", s.Label)
		}
		if _, err := tok.Find(ctx, s); !errors.Is(err, hsm.ErrNoKey) {
			if err != nil {
				return err
			}
			continue
		}
		if err := p.Before(ctx, maker.Act{Key: s.Label, What: "import for a test"}); err != nil {
			return err
		}
		if _, err := tok.Import(ctx, s, value); err != nil {
			return err
		}
	}
	return nil
}
