package message_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/statement"
)

var update = flag.Bool("update", false, "write testdata/golden.json anew instead of comparing with it")

// golden are the vectors of docs/formats.md: messages by an ephemeral key that is known, to a device whose key is known.
type golden struct {
	Recipient   hexBytes        `json:"recipient_private"`
	Certificate hexBytes        `json:"certificate"`
	KeyID       hexBytes        `json:"key_id"`
	Sender      hexBytes        `json:"sender_private"`
	SenderPoint hexBytes        `json:"sender_public"`
	Ephemeral   hexBytes        `json:"ephemeral_private"`
	Info        hexBytes        `json:"info"`
	AAD         hexBytes        `json:"aad"`
	ID          hexBytes        `json:"message_id"`
	ContentType string          `json:"content_type"`
	Body        hexBytes        `json:"body"`
	Content     hexBytes        `json:"content"`
	Messages    []goldenMessage `json:"messages"`
}

type goldenMessage struct {
	Signed    bool     `json:"signed"`
	Plaintext hexBytes `json:"plaintext"`
	Message   hexBytes `json:"message"`
}

const goldenPath = "testdata/golden.json"

// goldenRecipient gives the device of the vectors.
func goldenRecipient(t testing.TB, certificate []byte) message.Recipient {
	t.Helper()
	ca, err := devicecert.SelfSigned(dev, "Example Devices", key(t, "ca"))
	must(t, err)
	ca.NotBefore = time.Unix(0, 0) // the vectors' CA: the same key and name, valid when they were made
	roots, err := devicecert.NewRoots(dev, ca)
	must(t, err)
	c, err := devicecert.Check(certificate, roots, devicecert.Want{})
	must(t, err)
	return message.Recipient{Key: newSoftware(t, "golden device"), Certificate: c}
}

func readGolden(t testing.TB) golden {
	t.Helper()
	var g golden
	text, err := os.ReadFile(goldenPath)
	must(t, err)
	must(t, json.Unmarshal(text, &g))
	return g
}

func scalar(t testing.TB, name string) []byte {
	t.Helper()
	b, err := key(t, name).Bytes()
	must(t, err)
	return b
}

// TestGolden makes the vectors again, compares, and opens them.
func TestGolden(t *testing.T) {
	t.Parallel()
	var want golden
	if _, err := os.Stat(goldenPath); *update && errors.Is(err, fs.ErrNotExist) {
		// Its serial number is random: it is made once.
		want.Certificate = certify(t, newSoftware(t, "golden device").public, dev, keypackage.UseAgreement).X509.Raw
	} else {
		want = readGolden(t)
	}
	to, from := goldenRecipient(t, want.Certificate), newSoftware(t, "golden sender")
	m := message.Message{ID: message.ID([]byte("sixteen id bytes")), ContentType: "text/plain", Body: []byte("come to the shop")}
	id := message.KeyIDOf(to.Certificate.Public)
	content := detcbor.Array(1, 1, ptr(to.Certificate.Hash())[:], m.ID[:], m.ContentType, m.Body)
	got := golden{
		Recipient: scalar(t, "golden device"), Certificate: to.Certificate.X509.Raw, KeyID: id[:],
		Sender: scalar(t, "golden sender"), SenderPoint: from.public.Point(), Ephemeral: scalar(t, "ephemeral"),
		Info: message.Info(to.Certificate), AAD: message.AAD(message.SuiteP256, id, newSoftware(t, "ephemeral").public.Point()),
		ID: m.ID[:], ContentType: m.ContentType, Body: m.Body, Content: content,
	}
	signature, err := statement.Sign(t.Context(), from, message.Statement, content)
	must(t, err)
	for _, plaintext := range [][]byte{detcbor.Array(1, 0, content), detcbor.Array(1, 1, signature)} {
		got.Messages = append(got.Messages, goldenMessage{Signed: len(got.Messages) == 1, Plaintext: plaintext, Message: seal(t, to.Certificate, plaintext)})
	}
	if *update {
		out, err := json.MarshalIndent(got, "", "  ")
		must(t, err)
		must(t, os.WriteFile(goldenPath, append(bytes.TrimSpace(out), '\n'), 0o644))
	} else if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	for _, g := range got.Messages {
		o, err := message.Open(t.Context(), to, g.Message, message.Policy{Anonymous: true, Senders: []statement.PublicKey{from.public}})
		must(t, err)
		if diff := cmp.Diff(m, o.Message); diff != "" || o.Sender.IsZero() == g.Signed {
			t.Errorf("signed %t: %s, sender %s", g.Signed, diff, o.Sender)
		}
	}
}
