package profile

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decode fills p from one YAML document and refuses what a reader could
// mistake. What remains is decoded with unknown keys refused; a key twice is
// refused by the decoder itself.
func decode(data []byte, p *Profile) error {
	if len(data) > MaxSize {
		return fmt.Errorf("%d bytes, at most %d are read", len(data), MaxSize)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var document, second yaml.Node
	if err := decoder.Decode(&document); err != nil {
		if errors.Is(err, io.EOF) {
			return fmt.Errorf("it is empty: describe a product line, e.g. as the example phone.yaml does")
		}
		return plainError(err)
	}
	if err := decoder.Decode(&second); !errors.Is(err, io.EOF) {
		return fmt.Errorf("a second document follows: a profile is one document, remove the rest")
	}
	if err := strict(&document, ""); err != nil {
		return err
	}
	known := yaml.NewDecoder(bytes.NewReader(data))
	known.KnownFields(true)
	if err := known.Decode(p); err != nil {
		return plainError(err)
	}
	return nil
}

// wholeNumber is the one spelling of a number: YAML would also read 010 as 8
// and 1_0 as 10.
var wholeNumber = regexp.MustCompile(`^(0|[1-9][0-9]*)$`)

// strict refuses what YAML allows and a profile has no use for.
func strict(n *yaml.Node, key string) error {
	switch {
	case n.Kind == yaml.AliasNode || n.Anchor != "" || n.Tag == "!!merge":
		return fmt.Errorf("line %d: anchors, aliases and merges are not used here; write the value out", n.Line)
	case n.Style&yaml.TaggedStyle != 0:
		return fmt.Errorf("line %d: tags are not used here; remove %q", n.Line, n.Tag)
	}
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i < len(n.Content); i += 2 {
			if err := strict(n.Content[i], "key"); err != nil {
				return err
			}
			if err := strict(n.Content[i+1], n.Content[i].Value); err != nil {
				return err
			}
		}
	case yaml.ScalarNode:
		switch {
		case n.Tag == "!!null":
			return fmt.Errorf("line %d: %q has no value; give one or remove the key", n.Line, key)
		case n.Tag == "!!int" && !wholeNumber.MatchString(n.Value):
			return fmt.Errorf("line %d: %q is %s; write a plain decimal number, or quote it if it is text", n.Line, key, n.Value)
		case switches[key] && n.Value != "true" && n.Value != "false":
			return fmt.Errorf("line %d: %q is %s; write true or false", n.Line, key, n.Value)
		case n.Tag == "!!float", n.Tag == "!!timestamp":
			return fmt.Errorf("line %d: %q is %s; quote it if it is text", n.Line, key, n.Value)
		case n.Tag == "!!int" && textKeys[key]:
			return fmt.Errorf("line %d: %q is a text; write %q", n.Line, key, n.Value)
		}
	default:
		for _, c := range n.Content {
			if err := strict(c, key); err != nil {
				return err
			}
		}
	}
	return nil
}

// textKeys hold texts that may look like numbers: unquoted, YAML would change
// 007 on its way.
var textKeys = map[string]bool{"name": true, "value": true, "file": true, "modules": true, "publish": true}

// switches are true or false; the decoder would also take "yes" and "on".
var switches = map[string]bool{"allow_unattested": true, "digits": true, "clear": true, "certificate": true, "identity_in_certificates": true}

// plainError drops the decoder's own prefixes and Go's type names.
func plainError(err error) error {
	text := strings.TrimPrefix(err.Error(), "yaml: ")
	text = strings.TrimPrefix(text, "unmarshal errors:\n")
	var lines []string
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		line = strings.ReplaceAll(line, "field ", "unknown key ")
		line, _, _ = strings.Cut(line, " not found in type")
		line, _, _ = strings.Cut(line, " into ")
		line = strings.ReplaceAll(line, "cannot unmarshal", "can't take")
		lines = append(lines, line)
	}
	return errors.New(strings.Join(lines, "; "))
}
