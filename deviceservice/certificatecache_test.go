package deviceservice

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// list is a registry that counts and, on demand, is away.
type list struct {
	asked int
	away  bool
}

func (l *list) Certificates(context.Context, identity.RecordID) (identity.Generation, [][]byte, error) {
	l.asked++
	if l.away {
		return 0, nil, errors.New("no route")
	}
	return identity.Generation(l.asked), [][]byte{{1}}, nil
}

// TestCertificateCache: an answer is used again for seconds, longer while the
// registry is away, and never after its stated age.
func TestCertificateCache(t *testing.T) {
	t.Parallel()
	source, now := &list{}, time.Now()
	c := NewCertificateCache(source)
	c.now = func() time.Time { return now }
	for _, step := range []struct {
		pass  time.Duration
		away  bool
		want  identity.Generation // 0: refused
		asked int
	}{
		{0, false, 1, 1},
		{certificatesFresh - 1, false, 1, 1},
		{1, false, 2, 2},
		{certificatesFresh, true, 2, 3},
		{certificatesMaxAge - certificatesFresh - 1, true, 2, 4},
		{1, true, 0, 5},
		{0, false, 6, 6},
		{-time.Hour, false, 7, 7}, // a clock that was set back
	} {
		now = now.Add(step.pass)
		source.away = step.away
		g, _, err := c.Certificates(t.Context(), identity.RecordID{1})
		if g != step.want || (err != nil) != (step.want == 0) || source.asked != step.asked {
			t.Errorf("after %s, away %t: generation %d, %v, asked %d times; %d and %d are expected", step.pass, step.away, g, err, source.asked, step.want, step.asked)
		}
	}
}
