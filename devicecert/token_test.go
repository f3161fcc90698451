package devicecert_test

import (
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/softhsm"
)

// TestToken: the CA's key in a token, crypto11 as its signer, several devices at a time.
func TestToken(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	token := h.Open(t, h.SignToken)
	label := "dev-device-ca-" + rand.Text() // the token is shared
	if _, err := token.Generate(t.Context(), hsm.Spec{Kind: hsm.CAKey, Label: label, Token: true}); err != nil {
		t.Fatal(err)
	}
	signer, err := token.Signer(label)
	must(t, err)
	cert, err := devicecert.SelfSigned(dev, "Example Devices", signer)
	must(t, err)
	a, err := devicecert.New(cert, signer)
	must(t, err)
	roots, err := devicecert.NewRoots(dev, cert)
	must(t, err)
	var g sync.WaitGroup
	for i := range byte(8) {
		g.Go(func() {
			q := request(t, keypackage.UseAgreement)
			q.Record = record(i + 1)
			der, err := a.Certify(t.Context(), q)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := devicecert.Check(der, roots, devicecert.Want{At: time.Now(), Record: q.Record, Use: keypackage.UseAgreement}); err != nil {
				t.Error(err)
			}
			if _, err := devicecert.Check(der, roots, devicecert.Want{Record: record(i + 2)}); !errors.Is(err, devicecert.ErrOther) {
				t.Errorf("another record: %v", err)
			}
		})
	}
	g.Wait()
}
