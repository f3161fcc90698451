package channel

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"errors"
	"fmt"
	"io"

	"github.com/flynn/noise"
)

// pskSize is that of a Noise pre-shared key.
const pskSize = 32

// ephemeralSize is that of an X25519 key.
const ephemeralSize = 32

// handshake is one side of Noise NNpsk2: two messages, the initiator's first. The
// pre-shared key is needed from the second on, and then both ephemeral keys are known.
// It's what this package wants of a Noise library, and all it wants.
type handshake interface {
	// write gives the next message.
	write(payload []byte) (message []byte, err error)
	// read reads the peer's message and gives its payload. An error means that it
	// doesn't open: the peer has another key or hello.
	read(message []byte) (payload []byte, err error)
	// preshare sets the pre-shared key.
	preshare(psk []byte) error
	// split gives what encrypts and decrypts once both messages are through, and the
	// handshake's hash, which no two handshakes share.
	split() (send, receive *noise.CipherState, binding []byte, err error)
}

// ephemeral is X25519 of one handshake, with the pair of one side: made beforehand, since
// the pre-shared key covers its public half and the library's own would be known too late.
// The library never sees the private half.
type ephemeral struct{ pair *ecdh.PrivateKey }

func newEphemeral() (ephemeral, error) {
	pair, err := ecdh.X25519().GenerateKey(rand.Reader)
	return ephemeral{pair}, err
}

func (e ephemeral) public() []byte { return e.pair.PublicKey().Bytes() }

// GenerateKeypair gives the pair that there is.
func (e ephemeral) GenerateKeypair(io.Reader) (noise.DHKey, error) {
	return noise.DHKey{Public: e.public()}, nil
}

// DH agrees with the peer. An agreement that gives zero is an error (RFC 7748 §6.1).
func (e ephemeral) DH(_, peer []byte) ([]byte, error) {
	public, err := ecdh.X25519().NewPublicKey(peer)
	if err != nil {
		return nil, err
	}
	return e.pair.ECDH(public)
}

func (ephemeral) DHLen() int     { return ephemeralSize }
func (ephemeral) DHName() string { return noise.DH25519.DHName() }

// flynn is a handshake of github.com/flynn/noise.
type flynn struct {
	state         *noise.HandshakeState
	initiator     bool
	preshared     bool
	send, receive *noise.CipherState
}

// errNoPSK: the library would read on with an empty one, which is no pre-shared key at all.
var errNoPSK = errors.New("the pre-shared key isn't set")

// newNoise begins a handshake with an ephemeral pair.
func newNoise(initiator bool, prologue []byte, own noise.DHFunc) (*flynn, error) {
	s, err := noise.NewHandshakeState(noise.Config{
		CipherSuite: noise.NewCipherSuite(own, noise.CipherAESGCM, noise.HashSHA256), Pattern: noise.HandshakeNN, Initiator: initiator, Prologue: prologue,
		PresharedKeyPlacement: 2, Random: bytes.NewReader(nil), // nothing is drawn
	})
	if err != nil {
		return nil, err
	}
	return &flynn{state: s, initiator: initiator}, nil
}

func (f *flynn) write(payload []byte) ([]byte, error) {
	m, a, b, err := f.state.WriteMessage(nil, payload)
	f.keep(a, b)
	return m, err
}

func (f *flynn) read(message []byte) ([]byte, error) {
	if f.initiator && !f.preshared {
		return nil, errNoPSK
	}
	p, a, b, err := f.state.ReadMessage(nil, message)
	f.keep(a, b)
	return p, err
}

func (f *flynn) keep(initiators, responders *noise.CipherState) {
	if f.send, f.receive = initiators, responders; !f.initiator {
		f.send, f.receive = responders, initiators
	}
}

func (f *flynn) preshare(psk []byte) error {
	if len(psk) != pskSize {
		return fmt.Errorf("a pre-shared key of %d bytes, %d are due", len(psk), pskSize)
	}
	f.preshared = true
	return f.state.SetPresharedKey(psk)
}

func (f *flynn) split() (send, receive *noise.CipherState, binding []byte, err error) {
	if f.send == nil || f.receive == nil {
		return nil, nil, nil, errors.New("the handshake isn't over")
	}
	return f.send, f.receive, bytes.Clone(f.state.ChannelBinding()), nil
}
