package message_test

import (
	"bytes"
	"errors"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/statement"
)

// FuzzOpen reads what anyone may send. Encrypting is open to all, so the second target goes on from there.
func FuzzOpen(f *testing.F) {
	g := readGolden(f)
	to := goldenRecipient(f, g.Certificate)
	policy := message.Policy{Anonymous: true, Senders: []statement.PublicKey{newSoftware(f, "golden sender").public}}
	for _, m := range g.Messages {
		f.Add([]byte(m.Message))
		f.Add([]byte(m.Message[:len(m.Message)-1]))
	}
	f.Add(detcbor.Array(1, 1, g.KeyID[:32], g.SenderPoint[:65], make([]byte, 16)))
	f.Add([]byte{0x85, 1, 1, 0x40, 0x40, 0x40})
	f.Fuzz(func(t *testing.T, raw []byte) {
		o, err := message.Open(t.Context(), to, raw, policy)
		known := bytes.Equal(raw, g.Messages[0].Message) || bytes.Equal(raw, g.Messages[1].Message)
		switch {
		case known && err != nil:
			t.Fatal(err)
		case !known && err == nil && o.Body == nil:
			t.Fatal("opened, and there is nothing in it")
		case err != nil && !errors.Is(err, message.ErrForm) && !errors.Is(err, message.ErrRecipient) && !errors.Is(err, message.ErrOpen) && !errors.Is(err, message.ErrSender):
			t.Fatalf("refused with another error: %v", err)
		}
		h, headerErr := message.ParseHeader(raw)
		if headerErr != nil && !errors.Is(err, message.ErrForm) || headerErr == nil && h.Ciphertext >= len(raw) {
			t.Fatalf("header %+v, %v; opening: %v", h, headerErr, err)
		}
	})
}

// FuzzPlaintext reads what anyone may encrypt. Nobody is taken for the sender whose key he lacks.
func FuzzPlaintext(f *testing.F) {
	g := readGolden(f)
	to := goldenRecipient(f, g.Certificate)
	from := newSoftware(f, "golden sender").public
	for _, m := range g.Messages {
		f.Add([]byte(m.Plaintext))
		f.Add([]byte(m.Plaintext[:len(m.Plaintext)-1]))
	}
	f.Add(detcbor.Array(1, 1, []byte(g.Content)))
	f.Add(detcbor.Array(1, 0, nil))
	f.Fuzz(func(t *testing.T, plaintext []byte) {
		if len(plaintext) > message.MaxBody {
			return
		}
		o, err := message.Open(t.Context(), to, seal(t, to.Certificate, plaintext), message.Policy{Anonymous: true, Senders: []statement.PublicKey{from}})
		switch {
		case err == nil && !o.Sender.IsZero() && !bytes.Equal(plaintext, g.Messages[1].Plaintext) && !bytes.Contains(plaintext, g.Content):
			t.Fatalf("%x passes for a message by the sender", plaintext)
		case err == nil && (o.ID == message.ID{} || o.Body == nil || message.CheckContentType(o.ContentType) != nil):
			t.Fatalf("opened as %+v", o)
		case err != nil && !errors.Is(err, message.ErrForm) && !errors.Is(err, message.ErrRecipient) && !errors.Is(err, message.ErrSender):
			t.Fatalf("refused with another error: %v", err)
		case err == nil && o.Sender.IsZero():
			// What is read has one encoding.
			again := detcbor.Array(1, 0, detcbor.Array(1, 1, ptr(to.Certificate.Hash())[:], o.ID[:], o.ContentType, o.Body))
			if !bytes.Equal(again, plaintext) {
				t.Fatalf("%x is read as %x", plaintext, again)
			}
		}
	})
}
