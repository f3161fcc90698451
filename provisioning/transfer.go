package provisioning

import (
	"context"
	"errors"

	"github.com/devicekeys/devicekeys/keypackage"
)

var errSamePoint = errors.New("the HSM's point is the device's own: random numbers are broken")

// transfer makes the data package for one hello: a fresh agreement with the
// device's point, the keys under its KEK, the other secrets under its package
// key. All of it is gone from the HSM when transfer returns.
func (b *beginning) transfer(ctx context.Context, keys *deviceKeys) error {
	d, h := &b.device, b.hello
	m, err := keypackage.ParseManifest(d.Manifest)
	if err != nil {
		return err
	}
	sender, err := b.keys.NewSender(ctx, h.Point)
	if b.keys.faultOf(err) == FaultRequest {
		return refuse(CodeMalformed, "look at the device's software", "the HSM refused the device's point").because(err)
	}
	if err != nil {
		return err
	}
	defer func() {
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), destroyTimeout)
		defer cancel()
		if err := sender.Close(bound); err != nil {
			b.log.WarnContext(ctx, "closing a transfer failed; its keys end with their session", "error", err)
		}
	}()
	point := sender.Point()
	if point == h.Point {
		return inHSM(errSamePoint)
	}
	t := keypackage.Transcript(h.m1, point.Point(), d.Claims)
	if err := sender.Bind(ctx, h.Suite, t, len(m.Secrets()) > 0); err != nil {
		return err
	}
	pack := keypackage.DataPackage{Point: point, Certificate: d.Certificate, Manifest: d.Manifest}
	for _, i := range m.Wrapped() {
		name := m.Entries[i].Key.Name
		key := keys.named[name]
		if key == nil {
			w, err := b.wrapWaiting(ctx, sender, name)
			if err != nil {
				return err
			}
			pack.Wrapped = append(pack.Wrapped, w)
			continue
		}
		w, err := sender.Wrap(ctx, key)
		if err != nil {
			b.cache.drop(ctx, keys.id) // the handle may be at fault: the next try derives again
			return err
		}
		pack.Wrapped = append(pack.Wrapped, w)
	}
	if len(m.Secrets()) > 0 {
		if pack.Secrets, err = b.sealSecrets(ctx, sender, t, m); err != nil {
			return err
		}
	}
	d.Hello, d.Point = h.m1, point.Point()
	d.Package, err = pack.Encode()
	return err
}

func (b *beginning) sealSecrets(ctx context.Context, sender keypackage.Sender, t [32]byte, m keypackage.Manifest) (*keypackage.Sealed, error) {
	var all []keypackage.Secret
	for _, i := range m.Secrets() {
		all = append(all, b.secrets[m.Entries[i].Key.Name])
	}
	plaintext, err := keypackage.EncodeSecrets(all)
	if err != nil {
		return nil, err
	}
	defer clear(plaintext)
	sealed, err := sender.Seal(ctx, t, plaintext)
	if err != nil {
		return nil, err
	}
	return &sealed, nil
}
