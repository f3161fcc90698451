package maker

import (
	"fmt"
	"io"
	"strings"

	"github.com/devicekeys/devicekeys/hsm"
)

// WriteMarkdown writes the document of all keys: every kind, where it lives, who may use it, what a thief gains, and
// each attribute with its reason. The same build gives the same bytes.
func WriteMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(`# Keys

<!-- Made by "custodian keys --markdown" from the templates in package hsm and the roles in package hsm/maker. -->

Every key of Devicekeys: where it lives, who may use it, what a thief gains, and each PKCS#11 attribute with its
reason. Labels begin with the realm's prefix, ` + "`dev-` or `prod-`" + `. The attributes of keys that last are read back and
compared when a key is made and whenever a program opens it; a key with any other attribute is refused.

"Audited" means: an entry in the audit log, committed before each use. "Backup" means: in production the key is born in
a ceremony, as an extractable session key that is wrapped under the backup key, unwrapped as a token key that can't be
extracted, and destroyed. The development realm generates it inside its token and has no backup.

| key | where | label | audited | backup |
|---|---|---|---|---|
`)
	for _, r := range Roles() {
		label := ""
		if r.Labels != "" {
			label = "`" + r.Labels + "`"
		}
		fmt.Fprintf(&b, "| [%s](#%s) | %s | %s | %s | %s |\n", r.Kind, anchor(r.Kind), r.Where, label, yes(r.Audited), yes(r.Backup))
	}
	for _, r := range Roles() {
		fmt.Fprintf(&b, "\n## %s\n\n", r.Kind)
		fmt.Fprintf(&b, "- Where: %s.\n", r.Where)
		if r.Labels != "" {
			fmt.Fprintf(&b, "- Label: `%s`\n", r.Labels)
		}
		fmt.Fprintf(&b, "- Who may use it: %s.\n", r.Users)
		fmt.Fprintf(&b, "- A thief gains: %s.\n", r.Thief)
		b.WriteString("\n| attribute | value | reason |\n|---|---|---|\n")
		for _, a := range r.Kind.Table() {
			fmt.Fprintf(&b, "| %s | %s | %s |\n", a.Attribute, strings.ReplaceAll(a.Value, "|", "\\|"), a.Reason)
		}
		if r.Kind == hsm.MasterKey || r.Kind == hsm.PurposeKey {
			b.WriteString("\nThe table is that of KDF 1. A key for KDF 2 allows SP800_108_COUNTER_KDF instead, or, where KDF 2 through the\nhost was switched on by name, signs with AES_CMAC and derives nothing.\n")
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// anchor is the name that Markdown viewers give a heading.
func anchor(k hsm.Kind) string {
	return strings.ToLower(strings.NewReplacer(" ", "-", "'", "").Replace(k.String()))
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}
