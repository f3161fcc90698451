package devicecert

import (
	"bytes"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
)

var (
	oidAltName            = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidHardwareModuleName = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 4} // RFC 4108 §5
)

// DefaultArc is the arc below which hwType stands: 1 for a record id, 2 for a
// key's hash. It is below the enterprise number that RFC 5612 sets aside for
// documentation; a maker who has a number of his own configures an arc of it.
func DefaultArc() asn1.ObjectIdentifier {
	return asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 32473, 4, 1}
}

// maxArc bounds an arc, in numbers.
const maxArc = 16

func checkArc(arc asn1.ObjectIdentifier) error {
	if len(arc) < 3 || len(arc) > maxArc {
		return fmt.Errorf("hardware type %s has %d numbers: 3 to %d are allowed", arc, len(arc), maxArc)
	}
	if _, err := asn1.Marshal(arc); err != nil {
		return fmt.Errorf("hardware type %s: %w", arc, err)
	}
	return nil
}

func (f form) hardwareType(arc asn1.ObjectIdentifier) asn1.ObjectIdentifier {
	return append(append(asn1.ObjectIdentifier{}, arc...), int(f))
}

// hardwareModuleName is RFC 4108 §5's. The serial number is raw bytes there.
type hardwareModuleName struct {
	Type   asn1.ObjectIdentifier
	Serial []byte
}

// otherName is RFC 5280 §4.2.1.6's: [0] IMPLICIT, its value [0] EXPLICIT.
type otherName struct {
	ID    asn1.ObjectIdentifier
	Value hardwareModuleName `asn1:"explicit,tag:0"`
}

const (
	tagOtherName = 0
	tagURI       = 6
)

// altName encodes the names, the URI only where urn is not empty. crypto/x509
// builds no otherName, so the extension is made here as a whole. It is not
// critical, since the subject isn't empty.
func altName(name hardwareModuleName, urn string) (pkix.Extension, error) {
	other, err := asn1.MarshalWithParams(otherName{oidHardwareModuleName, name}, "tag:0")
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode hardwareModuleName: %w", err)
	}
	names := []asn1.RawValue{{FullBytes: other}}
	if urn != "" {
		names = append(names, asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: tagURI, Bytes: []byte(urn)})
	}
	value, err := asn1.Marshal(names)
	if err != nil {
		return pkix.Extension{}, fmt.Errorf("encode subjectAltName: %w", err)
	}
	return pkix.Extension{Id: oidAltName, Value: value}, nil
}

// parseAltName reads what altName makes, and nothing else.
func parseAltName(value []byte) (hardwareModuleName, string, error) {
	fail := func(format string, args ...any) (hardwareModuleName, string, error) {
		return hardwareModuleName{}, "", fmt.Errorf("subjectAltName: "+format, args...)
	}
	var names []asn1.RawValue
	if rest, err := asn1.Unmarshal(value, &names); err != nil || len(rest) != 0 {
		return fail("it is no sequence of names")
	}
	if len(names) < 1 || len(names) > 2 {
		return fail("%d names: the hardware module and perhaps a URI are expected", len(names))
	}
	var other otherName
	if rest, err := asn1.UnmarshalWithParams(names[0].FullBytes, &other, "tag:0"); err != nil || len(rest) != 0 || !other.ID.Equal(oidHardwareModuleName) {
		return fail("the first name is no hardwareModuleName")
	}
	urn := ""
	if len(names) == 2 {
		if n := names[1]; n.Class != asn1.ClassContextSpecific || n.Tag != tagURI || n.IsCompound || len(n.Bytes) == 0 {
			return fail("the second name is no URI")
		}
		urn = string(names[1].Bytes)
	}
	again, err := altName(other.Value, urn)
	if err != nil || !bytes.Equal(again.Value, value) {
		return fail("it is encoded in another way than ours")
	}
	return other.Value, urn, nil
}
