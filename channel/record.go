package channel

import (
	"encoding/binary"

	"github.com/flynn/noise"
)

// recordCipher makes frames of records in one direction, and records of frames in the
// other. It serves one goroutine at a time.
type recordCipher interface {
	// seal appends the frame of a record, length included.
	seal(out []byte, kind byte, content []byte) ([]byte, error)
	// open appends a frame's record: its type and its content.
	open(out, body []byte) ([]byte, error)
}

// plainRecords are those inside TLS, which looks after everything.
type plainRecords struct{}

func (plainRecords) seal(out []byte, kind byte, content []byte) ([]byte, error) {
	return append(append(binary.BigEndian.AppendUint16(out, uint16(1+len(content))), kind), content...), nil
}

func (plainRecords) open(out, body []byte) ([]byte, error) { return append(out, body...), nil }

// noiseRecords are Noise transport messages. After every rekey of them the key is
// replaced by a function of itself (Noise §11.3): what was sent before stays secret when
// the new one gets out, and no key meets more than its cipher bears.
type noiseRecords struct {
	state *noise.CipherState
	rekey uint64
	n     uint64
}

func (c *noiseRecords) seal(out []byte, kind byte, content []byte) ([]byte, error) {
	out = binary.BigEndian.AppendUint16(out, uint16(1+len(content)+tagSize))
	at := len(out)
	out = append(append(out, kind), content...)
	out, err := c.state.Encrypt(out[:at], nil, out[at:]) // in place
	c.step()
	return out, err
}

func (c *noiseRecords) open(out, body []byte) ([]byte, error) {
	if len(body) < tagSize {
		return nil, ErrTampered
	}
	out, err := c.state.Decrypt(out, nil, body)
	if err != nil {
		return nil, ErrTampered
	}
	c.step()
	return out, nil
}

func (c *noiseRecords) step() {
	if c.n++; c.n%c.rekey == 0 {
		c.state.Rekey()
	}
}
