package main

import (
	"fmt"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/message"
)

type inspectCmd struct {
	console.Output

	File console.Path `arg:"" help:"The message."`
}

// inspected is what inspect prints; its field names are part of the interface. Nothing vouches for it.
type inspected struct {
	Suite      int           `json:"suite"`
	SuiteName  string        `json:"suite_name"`
	KeyID      message.KeyID `json:"recipient_key"`
	Bytes      int           `json:"bytes"`
	Ciphertext int           `json:"encrypted_bytes"`
}

func (i inspected) String() string {
	t := newPairs()
	t.Row("suite", i.SuiteName)
	t.Row("recipient key", i.KeyID)
	t.Row("bytes", i.Bytes)
	t.Row("encrypted", i.Ciphertext)
	return t.String()
}

func (c *inspectCmd) Run(io console.IO) error {
	raw, err := readFile(c.File.String(), message.MaxSize)
	if err != nil {
		return fmt.Errorf("read the message: %w", err)
	}
	h, err := message.ParseHeader(raw)
	if err != nil {
		return fmt.Errorf("%q: %w", c.File, err)
	}
	return c.Print(io.Out, inspected{int(h.Suite), h.Suite.String(), h.KeyID, len(raw), h.Ciphertext})
}
