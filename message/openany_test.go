package message_test

import (
	"bytes"
	"context"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
)

// counting is a key that counts its uses and keeps what it gave.
type counting struct {
	message.Agreer
	used int
	gave []byte
}

func (c *counting) Agree(ctx context.Context, peer []byte) ([]byte, error) {
	c.used++
	secret, err := c.Agreer.Agree(ctx, peer)
	c.gave = secret
	return secret, err
}

// TestOpenAny: of several certificates and keys the right one opens, wherever it stands, and keys that a message is not
// for are not used.
func TestOpenAny(t *testing.T) {
	t.Parallel()
	key, stranger := newSoftware(t, "device"), &counting{Agreer: newSoftware(t, "stranger")}
	first := message.Recipient{Key: key, Certificate: certify(t, key.public, dev, keypackage.UseAgreement)}
	second := message.Recipient{Key: key, Certificate: certify(t, key.public, dev, keypackage.UseAgreement)}
	other := message.Recipient{Key: stranger, Certificate: certify(t, newSoftware(t, "stranger").public, dev, keypackage.UseAgreement)}
	raw, err := message.Seal(t.Context(), second.Certificate, newMessage(t, "hello"), nil)
	must(t, err)
	for name, c := range map[string]struct {
		to   []message.Recipient
		want error
	}{
		"the one":              {[]message.Recipient{second}, nil},
		"the last":             {[]message.Recipient{other, first, second}, nil},
		"the first":            {[]message.Recipient{second, first, other}, nil},
		"the key, not the one": {[]message.Recipient{first, other}, message.ErrOpen},
		"another key":          {[]message.Recipient{other}, message.ErrRecipient},
		"none":                 {nil, message.ErrRecipient},
	} {
		o, err := message.OpenAny(t.Context(), c.to, raw, everyone)
		if !errors.Is(err, c.want) || err == nil && string(o.Body) != "hello" {
			t.Errorf("%s: %q, %v", name, o.Body, err)
		}
	}
	if stranger.used != 0 {
		t.Errorf("a key that the message is not for was used %d times", stranger.used)
	}
	// Whom to believe is no matter of trying.
	if _, err := message.OpenAny(t.Context(), []message.Recipient{second, first}, raw, message.Policy{}); !errors.Is(err, message.ErrSender) {
		t.Errorf("nobody is believed: %v", err)
	}
}

// TestSecretIsCleared: the shared secret is wiped, whether the message opens or not.
func TestSecretIsCleared(t *testing.T) {
	t.Parallel()
	to := device(t, "device")
	key := &counting{Agreer: to.Key}
	to.Key = key
	raw, err := message.Seal(t.Context(), to.Certificate, newMessage(t, "hello"), nil)
	must(t, err)
	changed := bytes.Clone(raw)
	changed[len(changed)-1] ^= 1
	for name, c := range map[string]struct {
		raw  []byte
		want error
	}{"it opens": {raw, nil}, "it was changed": {changed, message.ErrOpen}} {
		key.gave = nil
		if _, err := message.Open(t.Context(), to, c.raw, everyone); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if len(key.gave) != 32 || !bytes.Equal(key.gave, make([]byte, 32)) {
			t.Errorf("%s: the shared secret of %d bytes is not cleared", name, len(key.gave))
		}
	}
}
