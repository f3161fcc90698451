package message

import (
	"context"
	"crypto/hpke"
	"errors"
	"fmt"
	"slices"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/statement"
)

// Policy says whose messages a recipient takes. The zero Policy takes none.
type Policy struct {
	// Senders are the keys of senders who sign.
	Senders []statement.PublicKey
	// Anonymous takes messages that nobody signed.
	Anonymous bool
}

// Opened is a message that was opened.
type Opened struct {
	Message
	// Sender is the key that signed it, one of the Policy's; zero if nobody did.
	Sender statement.PublicKey
}

// Recipient is who a message is for.
type Recipient struct {
	Key Agreer
	// Certificate is the one that the message was encrypted to. Who has
	// several gives all to OpenAny.
	Certificate devicecert.Certificate
}

// Open decrypts a message, once, in the recipient's token, and checks who sent
// it. It matches ErrForm, ErrRecipient, ErrOpen or ErrSender, or it is an error
// of the Agreer's. Whether a message was seen before is the caller's to say, by
// its ID.
func Open(ctx context.Context, to Recipient, raw []byte, p Policy) (Opened, error) {
	o, err := open(ctx, to, raw, p)
	if err != nil {
		return Opened{}, fmt.Errorf("open message: %w", err)
	}
	return o, nil
}

// OpenAny is Open for who has several keys, or several certificates of one: it
// tries them in their order until the message is for one and opens. Of those that
// it isn't for, the key is not used. Where none fits, the error matches ErrOpen if
// the message is for one of the keys, else ErrRecipient.
func OpenAny(ctx context.Context, to []Recipient, raw []byte, p Policy) (Opened, error) {
	failed := fmt.Errorf("open message: %w: there is no key here", ErrRecipient)
	for _, r := range to {
		o, err := Open(ctx, r, raw, p)
		switch {
		case errors.Is(err, ErrOpen), errors.Is(err, ErrRecipient) && !errors.Is(failed, ErrOpen):
			failed = err
		case errors.Is(err, ErrRecipient):
		default:
			return o, err
		}
	}
	return Opened{}, failed
}

func open(ctx context.Context, to Recipient, raw []byte, p Policy) (Opened, error) {
	if err := checkCertificate(to.Certificate); err != nil {
		return Opened{}, err
	}
	e, err := parseEnvelope(raw)
	if err != nil {
		return Opened{}, err
	}
	id := KeyIDOf(to.Certificate.Public)
	if KeyID(e.KeyID) != id {
		return Opened{}, fmt.Errorf("%w: %s, and this is %s", ErrRecipient, KeyID(e.KeyID), id)
	}
	plaintext, err := decrypt(ctx, to, e)
	if err != nil {
		return Opened{}, err
	}
	var w plainWire
	if err := detcbor.Unmarshal(plaintext, &w, MaxSize); err != nil {
		return Opened{}, fmt.Errorf("%w: its plaintext: %w", ErrForm, err)
	}
	switch {
	case w.Version != version || w.Signed > signed || w.Bytes == nil:
		return Opened{}, fmt.Errorf("%w: version %d, form %d of its plaintext is not known", ErrForm, w.Version, w.Signed)
	case w.Signed == anonymous && !p.Anonymous:
		return Opened{}, fmt.Errorf("%w: nobody signed it", ErrSender)
	}
	var o Opened
	if w.Signed == signed {
		if w.Bytes, o.Sender, err = verify(w.Bytes, p); err != nil {
			return Opened{}, err
		}
	}
	if o.Message, err = parseContent(w.Bytes, to.Certificate); err != nil {
		return Opened{}, err
	}
	return o, nil
}

func decrypt(ctx context.Context, to Recipient, e envelope) ([]byte, error) {
	key, err := newExchanger(ctx, to)
	if err != nil {
		return nil, err
	}
	private, err := hpke.NewDHKEMPrivateKey(key)
	if err != nil {
		return nil, err
	}
	recipient, err := hpke.NewRecipient(e.Enc, private, hpke.HKDFSHA256(), hpke.AES256GCM(), info(to.Certificate))
	key.clear()
	if key.err != nil {
		return nil, key.err // the token's, which crypto/hpke need not hand on
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrOpen, err)
	}
	plaintext, err := recipient.Open(aad(Suite(e.Suite), KeyID(e.KeyID), e.Enc), e.Ciphertext)
	if err != nil {
		return nil, fmt.Errorf("%w: it was encrypted to another certificate of this key, or changed on its way", ErrOpen)
	}
	return plaintext, nil
}

// verify gives a statement's payload and who signed it.
func verify(raw []byte, p Policy) ([]byte, statement.PublicKey, error) {
	_, id, err := statement.Unverified(raw, Statement, MaxSize)
	if err != nil {
		return nil, statement.PublicKey{}, fmt.Errorf("%w: %w", ErrForm, err)
	}
	i := slices.IndexFunc(p.Senders, func(k statement.PublicKey) bool { return !k.IsZero() && k.ID() == id })
	if i < 0 {
		return nil, statement.PublicKey{}, fmt.Errorf("%w: it says that key %s signed it, which is none of the %d that are", ErrSender, id, len(p.Senders))
	}
	payload, err := statement.Open(raw, Statement, p.Senders[i], MaxSize)
	if err != nil {
		return nil, statement.PublicKey{}, fmt.Errorf("%w: %w", ErrSender, err)
	}
	return payload, p.Senders[i], nil
}
