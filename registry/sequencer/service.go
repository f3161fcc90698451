package sequencer

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"sync"
	"time"

	"connectrpc.com/connect"
	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/semaphore"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	registryrpc "github.com/devicekeys/devicekeys/registry/rpc"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	// DefaultQueueBytes bounds the submissions waiting or being written, in
	// bytes: some fifty thousand entries, seconds of work.
	DefaultQueueBytes = 64 << 20
	// queueSlots bounds their number.
	queueSlots = 1024
	// submitTimeout bounds how long a submission waits for its answer. It ends
	// before the server's own limit for an answer does, so that a submitter is told.
	submitTimeout = 45 * time.Second
	// busyRetry and downRetry are how long a submitter is asked to stay away
	// while the queue is full or the database does not answer.
	busyRetry = time.Second
	downRetry = 3 * time.Second
	// requestOverhead is room for the RPC's framing around a submission.
	requestOverhead = 1 << 10
	// neverCompress is above any answer's size, in bytes: what fills an answer is leaf hashes, which
	// gzip makes longer at the price of a tenth of the sequencer's time.
	neverCompress = 1 << 30
)

// Options configures a Service.
type Options struct {
	Realm identity.Realm
	// SubmissionKeys are the public keys of the SPPs' submission keys: more
	// than one while SPPs are several or a key is being replaced.
	SubmissionKeys []statement.PublicKey
	// IdentityKeys are the public identity-signing keys, past ones included:
	// one of them signed the statement of every scrap and erase entry.
	IdentityKeys []statement.PublicKey
	// QueueBytes bounds the submissions waiting or being written, in bytes; who
	// brings more is told to come back. 0 means DefaultQueueBytes, and at least
	// one submission of the largest size fits.
	QueueBytes int64
	Registerer prometheus.Registerer // takes the metrics; nil means none
	Log        *slog.Logger          // nil means slog's default
}

// Service takes submissions. Make one with New, serve its Handler and call Run.
type Service struct {
	opts    Options
	keys    map[statement.KeyID]statement.PublicKey
	log     Log
	logger  *slog.Logger
	metrics *metrics
	queue   chan *request
	room    *semaphore.Weighted // bytes
	signed  sync.Map            // name of a submitter → statement.PublicKey that its last submission was signed with

	mu      sync.RWMutex // guards stopped; held for reading while a request enters the queue
	stopped error        // why nothing is taken any more

	// The rest belongs to Run's goroutine.
	head    int64
	pending *attempt // an Append of unknown outcome
	down    bool     // the last batch found the database not answering
	carry   *request // taken from the queue, and too large for the batch at hand
}

// request is a submission on its way.
type request struct {
	candidates []candidate
	bytes      int64
	answer     chan answer // holds one
}

type answer struct {
	verdicts []verdict
	err      error // *connect.Error
}

// New makes a service on a log, whose head it reads. It fails where the log is of another realm.
func New(ctx context.Context, log Log, o Options) (*Service, error) {
	if o.Log == nil {
		o.Log = slog.Default()
	}
	if o.QueueBytes == 0 {
		o.QueueBytes = DefaultQueueBytes
	}
	if o.QueueBytes < registry.MaxSubmission {
		return nil, fmt.Errorf("sequencer: a queue of %d bytes: a submission may have %d", o.QueueBytes, registry.MaxSubmission)
	}
	if !o.Realm.Valid() || len(o.SubmissionKeys) == 0 || len(o.IdentityKeys) == 0 {
		return nil, fmt.Errorf("sequencer: realm, submission keys and identity-signing keys are needed")
	}
	s := &Service{
		opts: o, log: log, logger: o.Log, metrics: newMetrics(o.Registerer),
		keys:  map[statement.KeyID]statement.PublicKey{},
		queue: make(chan *request, queueSlots), room: semaphore.NewWeighted(o.QueueBytes),
	}
	for _, k := range o.SubmissionKeys {
		s.keys[k.ID()] = k
	}
	realm, err := log.Realm(ctx)
	if err != nil {
		return nil, err
	}
	if realm != 0 && realm != o.Realm {
		return nil, fmt.Errorf("sequencer: the database holds a %s registry and the configuration says %s: connect to the other database", realm, o.Realm)
	}
	if s.head, err = log.Head(ctx); err != nil {
		return nil, err
	}
	s.metrics.head.Set(float64(s.head))
	return s, nil
}

// Handler gives the service's RPCs. The server around it asks for client
// certificates and verifies them; who they are is asked here.
func (s *Service) Handler() http.Handler {
	path, rpc := registryrpc.NewSequencerServiceHandler(rpcHandler{s},
		connect.WithReadMaxBytes(registry.MaxSubmission+requestOverhead), connect.WithCompressMinBytes(neverCompress))
	refusal := connect.NewErrorWriter()
	mux := http.NewServeMux()
	mux.HandleFunc(path, func(w http.ResponseWriter, r *http.Request) {
		name, err := submitter(r.TLS, s.opts.Realm, time.Now())
		if err != nil {
			s.logger.Warn("submitter refused", "address", r.RemoteAddr, "error", err)
			s.count(connect.CodePermissionDenied)
			_ = refusal.Write(w, r, connect.NewError(connect.CodePermissionDenied, err)) // a lost client has no use for the error
			return
		}
		rpc.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), submitterKey{}, name)))
	})
	return mux
}

type submitterKey struct{}

// rpcHandler implements the generated interface.
type rpcHandler struct{ s *Service }

// Submit implements SequencerService.
func (h rpcHandler) Submit(ctx context.Context, req *connect.Request[registryrpc.SubmitRequest]) (*connect.Response[registryrpc.SubmitResponse], error) {
	name, _ := ctx.Value(submitterKey{}).(string)
	verdicts, err := h.s.submit(ctx, name, req.Msg.GetSubmission())
	if err != nil {
		h.s.count(connect.CodeOf(err))
		return nil, err
	}
	h.s.count(0)
	response := &registryrpc.SubmitResponse{Acks: make([]*registryrpc.Ack, len(verdicts))}
	for i, v := range verdicts {
		response.Acks[i] = v.ack()
	}
	return connect.NewResponse(response), nil
}

func (s *Service) count(code connect.Code) {
	name := "ok"
	if code != 0 {
		name = code.String()
	}
	s.metrics.submissions.WithLabelValues(name).Inc()
}

func (v verdict) ack() *registryrpc.Ack {
	switch v.result {
	case durable, duplicate:
		return &registryrpc.Ack{Result: registryrpc.Ack_RESULT_DURABLE, Sequence: v.sequence, LeafHash: v.leaf[:]}
	case conflict:
		return &registryrpc.Ack{Result: registryrpc.Ack_RESULT_CONFLICT, Reason: v.reason}
	}
	return &registryrpc.Ack{Result: registryrpc.Ack_RESULT_REFUSED, Reason: v.reason}
}

// submit checks a submission, queues it and waits for the verdicts.
func (s *Service) submit(ctx context.Context, name string, raw []byte) ([]verdict, error) {
	// Room is taken before anything is parsed: what is parsed is bounded by it.
	weight := int64(len(raw))
	if !s.room.TryAcquire(weight) {
		return nil, retryLater(connect.CodeResourceExhausted, busyRetry, "the sequencer has as much to do as it takes: submit again later")
	}
	release := true
	defer func() {
		if release {
			s.release(weight)
		}
	}()
	s.metrics.queueBytes.Add(float64(weight))
	submission, err := s.open(name, raw)
	if err != nil {
		s.logger.Warn("submission refused", "submitter", name, "bytes", len(raw), "error", err)
		return nil, err
	}
	r := &request{bytes: weight, answer: make(chan answer, 1)}
	for _, e := range submission.Entries {
		r.candidates = append(r.candidates, inspect(e, s.opts.Realm, s.opts.IdentityKeys))
	}
	if err := s.enqueue(r); err != nil {
		return nil, err
	}
	release = false // by the loop, when it has answered
	ctx, cancel := context.WithTimeout(ctx, submitTimeout)
	defer cancel()
	select {
	case a := <-r.answer:
		return a.verdicts, a.err
	case <-ctx.Done():
		// The entries go their way all the same; the submitter asks again.
		return nil, retryLater(connect.CodeUnavailable, downRetry, "the entries wait for the database: submit again to learn how they fared")
	}
}

func (s *Service) release(weight int64) {
	s.room.Release(weight)
	s.metrics.queueBytes.Add(-float64(weight))
}

// open checks who signed the submission and that it is for this registry and
// by the one who sent it.
func (s *Service) open(name string, raw []byte) (registry.Submission, error) {
	// A submission is long and reading it takes a while, so it is not first read to learn whose key it
	// names if that is likely known. Where it fails, it is read with care and told why.
	if key, ok := s.signed.Load(name); ok {
		if sub, err := registry.ParseSubmission(raw, key.(statement.PublicKey)); err == nil {
			return sub, s.check(name, sub)
		}
	}
	_, id, err := statement.Unverified(raw, statement.Submission, registry.MaxSubmission)
	if err != nil {
		return registry.Submission{}, connect.NewError(connect.CodeInvalidArgument, err)
	}
	key, ok := s.keys[id]
	if !ok {
		return registry.Submission{}, connect.NewError(connect.CodePermissionDenied,
			fmt.Errorf("key %s is no submission key here: add it to the sequencer's configuration", id))
	}
	sub, err := registry.ParseSubmission(raw, key)
	switch {
	case errors.Is(err, statement.ErrSignature):
		return registry.Submission{}, connect.NewError(connect.CodePermissionDenied, err)
	case err != nil:
		return registry.Submission{}, connect.NewError(connect.CodeInvalidArgument, err)
	}
	s.signed.Store(name, key) // as many as there are certified SPPs
	return sub, s.check(name, sub)
}

// check checks what a submission that was signed says of itself.
func (s *Service) check(name string, sub registry.Submission) error {
	switch {
	case sub.Realm != s.opts.Realm:
		return connect.NewError(connect.CodePermissionDenied,
			fmt.Errorf("the submission is of the %s realm and this registry of the %s one", sub.Realm, s.opts.Realm))
	case sub.Submitter != name:
		return connect.NewError(connect.CodePermissionDenied,
			fmt.Errorf("the submission is by %q and the client certificate of %q: set the SPP's name as its certificate has it", sub.Submitter, name))
	}
	return nil
}

func (s *Service) enqueue(r *request) error {
	s.mu.RLock()
	defer s.mu.RUnlock()
	if s.stopped != nil {
		return stoppedError()
	}
	select {
	case s.queue <- r:
		return nil
	default:
		return retryLater(connect.CodeResourceExhausted, busyRetry, "the sequencer has as much to do as it takes: submit again later")
	}
}

func stoppedError() error {
	return retryLater(connect.CodeUnavailable, downRetry, "the sequencer is stopping: submit again when it runs")
}

// retryLater makes an RPC error that says when to come back.
func retryLater(code connect.Code, after time.Duration, text string) error {
	err := connect.NewError(code, errors.New(text))
	err.Meta().Set("Retry-After", strconv.Itoa(int(after/time.Second)))
	return err
}

// Check fails while the service can't take submissions.
func (s *Service) Check(ctx context.Context) error {
	s.mu.RLock()
	stopped := s.stopped
	s.mu.RUnlock()
	if stopped != nil {
		return stopped
	}
	_, err := s.log.Head(ctx)
	return err
}
