package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/devicecert"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/statement"
)

type messageCmd struct {
	Open messageOpenCmd `cmd:"" help:"Open a message that somebody encrypted to the device."`
}

type messageOpenCmd struct {
	deviceFlags
	File      string   `arg:"" type:"existingfile" help:"The message, as message sendto wrote it."`
	Registry  string   `name:"registry" required:"" placeholder:"URL" help:"Where the device's own certificate is looked up, to which the message was encrypted."`
	CA        string   `name:"ca" required:"" placeholder:"FILE" help:"The device CA's certificates, PEM."`
	Entry     string   `name:"entry" placeholder:"NAME" help:"Which key pair (default: each of ecdh-p256)."`
	Sender    []string `name:"sender" placeholder:"FILE" help:"Public key of a sender whose signature is expected, PEM; may be given several times."`
	Anonymous bool     `name:"anonymous" help:"Take a message that nobody signed."`
	Out       string   `name:"out" placeholder:"FILE" help:"New file for what it says. Left out: printed."`
}

func (*messageOpenCmd) Help() string {
	return `The message is decrypted with a key that stays in the device's chip. Name the senders whose messages count with --sender; what nobody signed is taken with --anonymous only. Whether it came before says its id.`
}

func (*messageOpenCmd) Examples() string {
	return `$ device message open device-0001 letter.message --registry https://registry.example --ca device-ca.pem --sender sender.pem`
}

// openedMessage is what message open prints.
type openedMessage struct {
	Name        string `json:"name"`
	ID          string `json:"id"`
	Sender      string `json:"sender"` // key id; empty if nobody signed it
	ContentType string `json:"content_type"`
	Bytes       int    `json:"bytes"`
	Body        []byte `json:"body,omitempty"` // left out where it went to a file
}

func (m openedMessage) String() string {
	sender := m.Sender
	if sender == "" {
		sender = "nobody signed it"
	}
	text := fmt.Sprintf("id            %s\nsender        %s\ncontent type  %s\nbytes         %d\n", m.ID, sender, m.ContentType, m.Bytes)
	if m.Body != nil {
		text += fmt.Sprintf("body          %q\n", m.Body)
	}
	return text
}

func (c *messageOpenCmd) Run(ctx context.Context, io console.IO) error {
	policy := message.Policy{Anonymous: c.Anonymous}
	for _, path := range c.Sender {
		text, err := readFile(path, maxPEM)
		if err != nil {
			return err
		}
		key, err := statement.ParsePEM(text)
		if err != nil {
			return console.Usagef("sender %q: %w", path, err)
		}
		policy.Senders = append(policy.Senders, key)
	}
	if len(policy.Senders) == 0 && !c.Anonymous {
		return console.Usagef("whose messages count? Name senders with --sender, or write --anonymous")
	}
	raw, err := readFile(c.File, message.MaxSize)
	if err != nil {
		return err
	}
	ca, err := readFile(c.CA, maxChain)
	if err != nil {
		return err
	}
	return c.with(ctx, io, func(d *device.Device) error {
		roots, err := devicecert.ParseRoots(d.Realm(), ca)
		if err != nil {
			return console.Usagef("device CA %q: %w", c.CA, err)
		}
		b, err := d.Boot(ctx)
		if err != nil {
			return err
		}
		to, err := c.recipients(ctx, d, b, roots)
		if err != nil {
			return err
		}
		opened, err := message.OpenAny(ctx, to, raw, policy)
		if err != nil {
			return refused{console.Hint(fmt.Errorf("%q: %w", c.File, err), "ask the sender: it is for another device or key, was changed, or nobody you named signed it")}
		}
		out := openedMessage{Name: c.Name, ID: hex.EncodeToString(opened.ID[:]), ContentType: opened.ContentType, Bytes: len(opened.Body)}
		if !opened.Sender.IsZero() {
			out.Sender = opened.Sender.ID().String()
		}
		if c.Out == "" {
			out.Body = opened.Body
		} else if err := writeNew(c.Out, opened.Body); err != nil {
			return err
		}
		return c.Print(io.Out, out)
	})
}

// recipients gives what the message may have been encrypted to: each key pair for key agreement, or the one that --entry
// names, with each of its certificates in the device's record.
func (c *messageOpenCmd) recipients(ctx context.Context, d *device.Device, b *device.Booted, roots *devicecert.Roots) ([]message.Recipient, error) {
	if _, err := keyOf(b, keypackage.Algorithms(keypackage.UseAgreement), c.Entry); err != nil {
		return nil, err
	}
	record, err := lookup(ctx, d, c.Registry)
	if err != nil {
		return nil, err
	}
	var all []message.Recipient
	var missing error
	for _, e := range b.Entries {
		if e.Algorithm.Use() != keypackage.UseAgreement || c.Entry != "" && e.Key.Name != c.Entry {
			continue
		}
		public, err := statement.ParsePoint(e.Vouch)
		if err != nil {
			return nil, err
		}
		own, err := certificatesOf(record, e.Vouch)
		if err != nil {
			missing = err // of this key: another may have one
			continue
		}
		for _, der := range own {
			cert, err := devicecert.Check(der, roots, devicecert.Want{Use: keypackage.UseAgreement, Public: public})
			if err != nil {
				return nil, fmt.Errorf("the device's own certificate: %w", err)
			}
			all = append(all, message.Recipient{Key: d.Agreer(e.Key.Name), Certificate: cert})
		}
	}
	if len(all) == 0 {
		return nil, missing
	}
	return all, nil
}

func writeNew(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write the message: %w", err)
	}
	if _, err := f.Write(b); err != nil {
		_ = f.Close() // the write's error says it
		return fmt.Errorf("write the message: %w", err)
	}
	return f.Close()
}
