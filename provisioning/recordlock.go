package provisioning

import (
	"context"
	"sync"

	"github.com/devicekeys/devicekeys/identity"
)

// recordLocks puts the calls for one device in a line, within this process.
// Between processes the records' keys and conditional updates decide. It exists
// so that two Begins of one chip do not both pay for a transfer of which one is
// thrown away.
type recordLocks struct {
	mu   sync.Mutex // guards held and each lock's waiters
	held map[identity.RecordID]*recordLock
}

type recordLock struct {
	turn    chan struct{} // one token: who has it holds the lock
	waiters int           // holder included; the last one removes the lock
}

// lock waits for the record's turn, as long as ctx lives.
func (l *recordLocks) lock(ctx context.Context, r identity.RecordID) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[identity.RecordID]*recordLock{}
	}
	k := l.held[r]
	if k == nil {
		k = &recordLock{turn: make(chan struct{}, 1)}
		k.turn <- struct{}{}
		l.held[r] = k
	}
	k.waiters++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if k.waiters--; k.waiters == 0 {
			delete(l.held, r)
		}
	}
	select {
	case <-k.turn:
		return func() { k.turn <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, refuse(CodeBusy, "send the request again", "another call for record %s is under way", r.Short()).because(ctx.Err()).after(retryAfter)
	}
}
