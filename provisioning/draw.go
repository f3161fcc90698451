package provisioning

import (
	"bytes"
	"context"
	"fmt"

	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/profile"
)

// Secrets that are no keys are drawn by the HSM: on the line, or in advance.

// commitmentBytes are the random bytes of a commitment; digitsSpare are drawn
// beside each code, so that one call does in nine of ten cases.
const (
	commitmentBytes = 32
	digitsSpare     = 8
)

// randomBytes gives n random bytes of the HSM.
type randomBytes func(ctx context.Context, n int) ([]byte, error)

func randomOf(keys interface {
	Random(ctx context.Context, n int) ([]byte, error)
}) randomBytes {
	return func(ctx context.Context, n int) ([]byte, error) {
		b, err := keys.Random(ctx, n)
		if err != nil {
			return nil, err
		}
		if len(b) != n {
			return nil, inHSM(fmt.Errorf("the HSM gave %d random bytes, %d were asked for", len(b), n))
		}
		return b, nil
	}
}

// drawnBytes is how many random bytes drawSecret begins with.
func drawnBytes(e profile.Entry) int {
	n := e.Size + commitmentBytes
	if e.Digits {
		n += digitsSpare
	}
	return n
}

// drawSecret makes an entry's value, and the random bytes of its commitment, of
// drawnBytes random bytes, which it clears. The caller wipes what it gives.
func drawSecret(ctx context.Context, random randomBytes, e profile.Entry, drawn []byte) (keypackage.Secret, error) {
	s := keypackage.Secret{Random: bytes.Clone(drawn[:commitmentBytes]), Value: bytes.Clone(drawn[commitmentBytes:])}
	clear(drawn)
	if !e.Digits {
		return s, nil
	}
	var err error
	if s.Value, err = digits(ctx, random, e.Size, s.Value); err != nil {
		return keypackage.Secret{}, err
	}
	return s, nil
}

// spent clears the first n random bytes, which were used, and gives the others.
func spent(stock []byte, n int) []byte {
	clear(stock[:n])
	return stock[n:]
}

// digits makes n decimal digits of random bytes, each as likely as the other:
// bytes from 250 on are thrown away. It draws more where those do not do.
func digits(ctx context.Context, random randomBytes, n int, drawn []byte) (out []byte, err error) {
	out = make([]byte, 0, n)
	for {
		for _, c := range drawn {
			if c < 250 && len(out) < n {
				out = append(out, '0'+c%10)
			}
		}
		clear(drawn)
		if len(out) == n {
			return out, nil
		}
		if drawn, err = random(ctx, n); err != nil {
			return nil, err
		}
	}
}
