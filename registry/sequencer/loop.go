package sequencer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
)

const (
	// batchEntries and batchBytes end the gathering of a batch. Beyond a
	// thousand entries a transaction gains nothing; the bytes are those of a
	// thousand unusually large ones.
	batchEntries = registry.MaxSubmissionEntries
	batchBytes   = 8 << 20
	// window is how long the first entry of a batch waits for company: less
	// than a commit to a replicated disk takes. companyEntries don't wait: what
	// a transaction costs beside its entries is by then little of the whole.
	window         = 3 * time.Millisecond
	companyEntries = 100
	// patience bounds the attempts to make one batch durable: the restart of a
	// database in place fits in it. While the database is known to be down a
	// batch gets one attempt of downPatience, so that submitters aren't kept.
	patience     = 15 * time.Second
	downPatience = 3 * time.Second
	// firstPause and maxPause bound the pause between attempts.
	firstPause = 20 * time.Millisecond
	maxPause   = time.Second
)

// attempt is an Append that failed: it may have written these leaves all the same.
type attempt struct{ leaves [][sha256.Size]byte }

// errStopped is why a service takes nothing after its Run was told to end.
var errStopped = errors.New("the sequencer was stopped")

// Run makes queued entries durable until ctx is cancelled; it then finishes the
// batch at hand and answers the rest of the queue with "unavailable". The
// caller has the server stop first, so that there is no rest. Run is called once.
//
// It fails only where going on would do harm: where the head was moved by
// another writer.
func (s *Service) Run(ctx context.Context) error {
	err := s.run(ctx)
	s.mu.Lock()
	if s.stopped = err; err == nil {
		s.stopped = errStopped
	}
	s.mu.Unlock()
	// Nothing enters the queue any more.
	if s.carry != nil {
		s.reply(s.carry, answer{err: stoppedError()})
	}
	for {
		select {
		case r := <-s.queue:
			s.reply(r, answer{err: stoppedError()})
		default:
			return err
		}
	}
}

func (s *Service) run(ctx context.Context) error {
	for {
		batch := s.gather(ctx)
		if batch == nil {
			return nil
		}
		if err := s.commit(ctx, batch); err != nil {
			return err
		}
	}
}

// gather waits for a request and takes what comes with it, or gives nil when ctx ends.
func (s *Service) gather(ctx context.Context) []*request {
	first := s.carry
	s.carry = nil
	if first == nil {
		select {
		case first = <-s.queue:
		case <-ctx.Done():
			return nil
		}
	}
	batch := []*request{first}
	entries, bytes := len(first.candidates), first.bytes
	end := time.NewTimer(window)
	defer end.Stop()
	for entries < batchEntries && bytes < batchBytes {
		if entries >= companyEntries && len(s.queue) == 0 { // nobody else takes from the queue
			return batch
		}
		select {
		case r := <-s.queue:
			if entries+len(r.candidates) > batchEntries || bytes+r.bytes > batchBytes {
				s.carry = r
				return batch
			}
			batch = append(batch, r)
			entries, bytes = entries+len(r.candidates), bytes+r.bytes
		case <-end.C:
			return batch
		}
	}
	return batch
}

// commit makes a batch durable and answers its requests. Its error ends the loop.
func (s *Service) commit(ctx context.Context, batch []*request) error {
	begin := time.Now()
	verdicts, err := s.attempts(ctx, batch)
	s.metrics.batchSeconds.Observe(time.Since(begin).Seconds())
	if err == nil {
		s.metrics.batchEntries.Observe(float64(len(verdicts)))
		s.metrics.head.Set(float64(s.head))
		for _, v := range verdicts {
			s.metrics.entries.WithLabelValues(string(v.result)).Inc()
		}
		for _, r := range batch {
			n := len(r.candidates)
			s.reply(r, answer{verdicts: verdicts[:n:n]})
			verdicts = verdicts[n:]
		}
		return nil
	}
	told := retryLater(connect.CodeUnavailable, downRetry, "the registry's database does not answer: submit again to learn how the entries fared")
	moved := errors.Is(err, store.ErrHeadMoved)
	switch {
	case moved:
		told = stoppedError()
	case !s.down:
		// Neither the database nor the connection is at fault, so it will happen again.
		told = connect.NewError(connect.CodeInternal, errors.New("the batch could not be written; the sequencer's log says why"))
	}
	s.logger.Error("batch not written", "requests", len(batch), "head", s.head, "error", err)
	for _, r := range batch {
		s.reply(r, answer{err: told})
	}
	if moved {
		return fmt.Errorf("the sequencer stops: %w: see that one sequencer runs, and that the database was not set back to an older state; then start it again", err)
	}
	return nil
}

func (s *Service) reply(r *request, a answer) {
	s.release(r.bytes)
	r.answer <- a // holds one: never waits
}

// attempts tries to write a batch until it is written, hopeless or too late.
// On return s.down says whether the database was at fault.
func (s *Service) attempts(ctx context.Context, batch []*request) ([]verdict, error) {
	bound, once := patience, false
	if s.down {
		bound, once = downPatience, true
	}
	// The loop's end doesn't cut off the batch at hand.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), bound)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, maxPause) {
		verdicts, err := s.try(ctx, batch)
		switch {
		case err == nil:
			s.down = false
			return verdicts, nil
		case errors.Is(err, store.ErrHeadMoved):
			return nil, err
		}
		s.down = database.Transient(err) || ctx.Err() != nil
		if !s.down || once {
			return nil, err
		}
		s.logger.Warn("batch will be tried again", "head", s.head, "pause", pause, "error", err)
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
		}
	}
}

// try settles what an earlier attempt left open, then writes the batch once.
func (s *Service) try(ctx context.Context, batch []*request) ([]verdict, error) {
	if s.pending != nil {
		head, err := s.log.Settle(ctx, s.head, s.pending.leaves)
		if err != nil {
			return nil, err
		}
		s.logger.Info("outcome of a failed commit found out", "head_before", s.head, "head", head)
		s.head, s.pending = head, nil
	}
	var candidates []candidate
	var records []identity.RecordID
	seen := map[identity.RecordID]bool{}
	for _, r := range batch {
		candidates = append(candidates, r.candidates...)
	}
	for _, c := range candidates {
		if c.refused == "" && !seen[c.entry.Record] {
			seen[c.entry.Record] = true
			records = append(records, c.entry.Record)
		}
	}
	if len(records) == 0 { // nothing that the log could decide on
		verdicts, _ := judge(s.head, nil, candidates)
		return verdicts, nil
	}
	var verdicts []verdict
	var leaves [][sha256.Size]byte
	size, err := s.log.Append(ctx, s.head, records, func(standing []store.Standing) []store.New {
		var add []store.New
		verdicts, add = judge(s.head, standing, candidates)
		leaves = leaves[:0]
		for _, n := range add {
			leaves = append(leaves, n.LeafHash)
		}
		return add
	})
	if err != nil {
		// Whatever the error says: look before anything else is written. The
		// submitters are answered only by what is found.
		if len(leaves) > 0 && !errors.Is(err, store.ErrHeadMoved) {
			s.pending = &attempt{leaves}
		}
		if errors.Is(err, database.ErrCommitUnknown) {
			s.metrics.unknown.Inc()
		}
		return nil, err
	}
	s.head = size
	return verdicts, nil
}
