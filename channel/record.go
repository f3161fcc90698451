package channel

import (
	"encoding/binary"

	"github.com/flynn/noise"
)

// recordCipher makes frames of records in one direction, and records of frames in the
// other. It serves one goroutine at a time.
type recordCipher interface {
	// seal appends a record's frame, length included.
	seal(out, plain []byte) ([]byte, error)
	// open gives a frame's record, in the frame's place.
	open(body []byte) ([]byte, error)
}

// plainRecords are those inside TLS, which looks after everything.
type plainRecords struct{}

func (plainRecords) seal(out, plain []byte) ([]byte, error) {
	return append(binary.BigEndian.AppendUint16(out, uint16(len(plain))), plain...), nil
}

func (plainRecords) open(body []byte) ([]byte, error) { return body, nil }

// noiseRecords are Noise transport messages. After every rekey of them the key is
// replaced by a function of itself (Noise §11.3): what was sent before stays secret when
// the new one gets out, and no key meets more than its cipher bears.
type noiseRecords struct {
	state *noise.CipherState
	rekey uint64
	n     uint64
}

func (c *noiseRecords) seal(out, plain []byte) ([]byte, error) {
	out = binary.BigEndian.AppendUint16(out, uint16(len(plain)+tagSize))
	out, err := c.state.Encrypt(out, nil, plain)
	c.step()
	return out, err
}

func (c *noiseRecords) open(body []byte) ([]byte, error) {
	if len(body) < tagSize {
		return nil, ErrTampered
	}
	plain, err := c.state.Decrypt(body[:0], nil, body)
	if err != nil {
		return nil, ErrTampered
	}
	c.step()
	return plain, nil
}

func (c *noiseRecords) step() {
	if c.n++; c.n%c.rekey == 0 {
		c.state.Rekey()
	}
}
