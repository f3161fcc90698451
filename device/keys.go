package device

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/asn1"
	"errors"
	"fmt"
	"io"
	"math/big"
	"slices"
	"strings"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/keypackage"
)

// What the software that runs on a device does with its keys. None of it can
// make what the line takes for the device's word: a MAC is only given over the
// channel's own messages, and the key that proves on the line signs for nobody.

// MAC gives HMAC-SHA-256 under the key of an entry, over a message of the secure
// channel (channel.Labelled) and nothing else. It is a channel.MAC for
// a device that was booted.
func (d *Device) MAC(ctx context.Context, entry string, msg []byte) ([]byte, error) {
	if !channel.Labelled(msg) {
		return nil, fmt.Errorf("MAC with entry %q: it is no message of the channel, and a device's key answers to nothing else", entry)
	}
	var mac []byte
	err := d.withKey(entry, channelAlgorithms, func(_ keypackage.Entry, k chip.Key) (err error) {
		mac, err = k.MAC(ctx, msg)
		return err
	})
	return mac, err
}

// channelAlgorithms are those of the keys that the channel's messages are authenticated with: what the channel computes is
// HMAC-SHA-256 in full, and a key is used with no algorithm but its own.
var channelAlgorithms = []keypackage.Algorithm{keypackage.HMACSHA256}

// Signer gives the key pair of an entry for signatures as a crypto.Signer, for TLS. It
// signs SHA-256 digests, each in the chip, for as long as the device runs; after
// another boot it signs with what that unwrapped. Whoever has a digest signed
// gets a signature under the device's name: so the entry that proves on the
// line (keypackage.Manifest.Proving) is refused where it is a pair.
func (d *Device) Signer(ctx context.Context, entry string) (crypto.Signer, error) {
	s := &signer{device: d, ctx: context.WithoutCancel(ctx), entry: entry}
	err := d.withKey(entry, keypackage.Algorithms(keypackage.UseSignature), func(e keypackage.Entry, _ chip.Key) error {
		if i, ok := proving(d.booted.manifest); ok && d.booted.manifest.Entries[i].Key.Name == entry {
			return fmt.Errorf("sign with entry %q: it proves on the line what the device is, and signs nothing else", entry)
		}
		public, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), e.Vouch)
		s.public = public
		return err
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// signer is a key pair in a device's chip.
type signer struct {
	device *Device
	ctx    context.Context // of values only: crypto.Signer has none
	entry  string
	public *ecdsa.PublicKey
}

// Public gives an *ecdsa.PublicKey.
func (s *signer) Public() crypto.PublicKey { return s.public }

// Sign signs a SHA-256 digest; the result is ASN.1 as in crypto/ecdsa.
func (s *signer) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if opts == nil || opts.HashFunc() != crypto.SHA256 || len(digest) != sha256.Size {
		return nil, fmt.Errorf("sign with entry %q: only SHA-256 digests are signed", s.entry)
	}
	var raw []byte
	err := s.device.withKey(s.entry, keypackage.Algorithms(keypackage.UseSignature), func(_ keypackage.Entry, k chip.Key) (err error) {
		raw, err = k.Sign(s.ctx, digest)
		return err
	})
	if err != nil {
		return nil, err
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(raw[:len(raw)/2]), new(big.Int).SetBytes(raw[len(raw)/2:])})
}

// Agree gives the result of ECDH between the key pair of an entry for key agreement and a
// peer's point, 65 bytes: 32 bytes, which the caller clears. It is what opens a
// message (message.Agreer, by Agreer).
func (d *Device) Agree(ctx context.Context, entry string, peer []byte) ([]byte, error) {
	var secret []byte
	err := d.withKey(entry, keypackage.Algorithms(keypackage.UseAgreement), func(_ keypackage.Entry, k chip.Key) (err error) {
		secret, err = k.Agree(ctx, peer)
		return err
	})
	return secret, err
}

// Agreer gives the key pair of an entry for key agreement as a message.Agreer.
func (d *Device) Agreer(entry string) Agreer { return Agreer{d, entry} }

// Agreer is a key agreement key in a device.
type Agreer struct {
	device *Device
	entry  string
}

// Agree is Device.Agree for the entry.
func (a Agreer) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	return a.device.Agree(ctx, a.entry, peer)
}

// ErrNoEntry says that a device has no key of that name and algorithm.
var ErrNoEntry = errors.New("the device has no such key")

// withKey calls f with the running device's key of an entry of one of these
// algorithms, under the device's lock.
func (d *Device) withKey(entry string, algorithms []keypackage.Algorithm, f func(keypackage.Entry, chip.Key) error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	b, err := d.running()
	if err != nil {
		return err
	}
	var have []string
	for i, e := range b.manifest.Entries {
		k, ok := b.keys[i]
		if !ok {
			continue
		}
		if e.Key.Name == entry && slices.Contains(algorithms, e.Algorithm) {
			return f(e, k)
		}
		have = append(have, fmt.Sprintf("%s (%s)", e.Key.Name, e.Algorithm))
	}
	return fmt.Errorf("%w: %q for %s; it has %s", ErrNoEntry, entry, keypackage.Either(algorithms), strings.Join(have, ", "))
}
