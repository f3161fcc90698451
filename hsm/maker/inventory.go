package maker

import (
	"context"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/statement"
)

// Item is one key of a token: that it is there, whole, and has these attributes.
type Item struct {
	Label      string      `json:"label"`
	Kind       string      `json:"kind"`
	KDF        hsm.KDF     `json:"kdf,omitempty"`        // of a master or purpose key
	PublicKey  string      `json:"public_key,omitempty"` // key id of a P-256 pair
	Attributes []Attribute `json:"attributes"`
}

// Attribute is one attribute as it was read back: "CKA_EXTRACTABLE", "false".
type Attribute struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Value gives the value of one attribute, "" if the key doesn't have it.
func (i Item) Value(name string) string {
	for _, a := range i.Attributes {
		if a.Name == name {
			return a.Value
		}
	}
	return ""
}

// Inventory reads every key's attributes back again and lists them: for evidence. It uses no key. A key that has
// changed since Open is an error that names it.
func (k *Keys) Inventory(ctx context.Context) ([]Item, error) {
	var all []Item
	for _, s := range k.specs {
		i, err := Inspect(ctx, k.tok, s)
		if err != nil {
			return nil, err
		}
		all = append(all, i)
	}
	return all, nil
}

// decidedByKDF are the attributes of a key for KDF 2 that its kind's table, which shows KDF 1, tells otherwise.
var decidedByKDF = []string{"CKA_ALLOWED_MECHANISMS", "CKA_DERIVE", "CKA_SIGN"}

// Inspect reads one key of any of the product's tokens back. Find refuses a key whose attributes differ in anything
// from its kind's template, so what it lets pass has exactly the template's.
func Inspect(ctx context.Context, tok *hsm.Token, s hsm.Spec) (Item, error) {
	key, err := tok.Find(ctx, s)
	if err != nil {
		return Item{}, fmt.Errorf("inspect %q: %w", s.Label, err)
	}
	i := Item{Label: s.Label, Kind: s.Kind.String(), KDF: s.KDF}
	if p, err := statement.ParsePoint(key.Public()); err == nil {
		i.PublicKey = p.ID().String()
	}
	for _, a := range s.Kind.Table() {
		if s.KDF == hsm.KDF2 && slices.Contains(decidedByKDF, a.Attribute) {
			continue
		}
		i.Attributes = append(i.Attributes, Attribute{a.Attribute, a.Value})
	}
	return i, nil
}
