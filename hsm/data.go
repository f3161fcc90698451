package hsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"

	"github.com/miekg/pkcs11"
)

// maxData bounds the value of a data object; the longest of ours is a public key.
const maxData = 64 << 10

// Data is a data object in a token: a chip ID, a ROM key, a lock, a generation floor.
type Data struct {
	Application string // whose object it is, CKA_APPLICATION
	Label       string
	Value       []byte // 1 byte to 64 KiB
	// Private: seen only after login.
	Private bool
	// OneWay: it can't be changed, copied or destroyed; only making the token anew
	// removes it.
	OneWay bool
}

// PutData stores d. It never replaces: an object of the same application and label
// then stands beside it, and whoever reads decides what two of them mean. The object
// is read back before PutData returns. A crash leaves the whole object or none: SoftHSM
// writes it in one transaction.
func (t *Token) PutData(ctx context.Context, d Data) error {
	switch {
	case d.Application == "" || d.Label == "" || len(d.Application) > maxLabel || len(d.Label) > maxLabel:
		return fmt.Errorf("hsm: store data %q of %q: both names need 1 to %d bytes", d.Label, d.Application, maxLabel)
	case len(d.Value) == 0 || len(d.Value) > maxData:
		return fmt.Errorf("hsm: store data %q of %q: %d bytes, and 1 to %d are stored", d.Label, d.Application, len(d.Value), maxData)
	}
	return t.with(ctx, fmt.Sprintf("store data %q of %q", d.Label, d.Application), func(s *session) error {
		h, err := t.lib.createObject(s.handle, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
			pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, d.Application),
			pkcs11.NewAttribute(pkcs11.CKA_LABEL, d.Label),
			pkcs11.NewAttribute(pkcs11.CKA_VALUE, d.Value),
			pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, d.Private),
			pkcs11.NewAttribute(pkcs11.CKA_MODIFIABLE, !d.OneWay),
			pkcs11.NewAttribute(pkcs11.CKA_COPYABLE, !d.OneWay),
			pkcs11.NewAttribute(pkcs11.CKA_DESTROYABLE, !d.OneWay),
		})
		if err != nil {
			return err
		}
		got, err := t.readData(s, h)
		if err != nil {
			return err
		}
		if got.Application != d.Application || got.Label != d.Label || !bytes.Equal(got.Value, d.Value) || got.Private != d.Private || got.OneWay != d.OneWay {
			return errors.New("the token stored it otherwise than asked")
		}
		return nil
	})
}

// Data reads all data objects of application, or those of a label if it isn't empty,
// in no particular order. None is no error.
func (t *Token) Data(ctx context.Context, application, label string) ([]Data, error) {
	match := []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true),
		pkcs11.NewAttribute(pkcs11.CKA_CLASS, pkcs11.CKO_DATA),
		pkcs11.NewAttribute(pkcs11.CKA_APPLICATION, application),
	}
	if label != "" {
		match = append(match, pkcs11.NewAttribute(pkcs11.CKA_LABEL, label))
	}
	var all []Data
	err := t.with(ctx, fmt.Sprintf("read data %q of %q", label, application), func(s *session) error {
		all = nil
		found, err := t.find(s, match)
		if err != nil {
			return err
		}
		for _, h := range found {
			d, err := t.readData(s, h)
			if err != nil {
				return err
			}
			all = append(all, d)
		}
		return nil
	})
	return all, err
}

func (t *Token) readData(s *session, h pkcs11.ObjectHandle) (Data, error) {
	v, err := t.lib.attributes(s.handle, h, pkcs11.CKA_APPLICATION, pkcs11.CKA_LABEL, pkcs11.CKA_VALUE,
		pkcs11.CKA_PRIVATE, pkcs11.CKA_MODIFIABLE, pkcs11.CKA_COPYABLE, pkcs11.CKA_DESTROYABLE)
	if err != nil {
		return Data{}, err
	}
	yes := func(b []byte) bool { return len(b) == 1 && b[0] != 0 }
	return Data{
		Application: string(v[0]), Label: string(v[1]), Value: v[2],
		Private: yes(v[3]),
		OneWay:  !yes(v[4]) && !yes(v[5]) && !yes(v[6]),
	}, nil
}
