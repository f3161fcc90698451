package deviceservice

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/time/rate"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deviceservice/call"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
)

const (
	// requestTime bounds one request, its answer's way out included.
	requestTime = 30 * time.Second
	// endTime bounds the proper end of a channel.
	endTime = 2 * time.Second
	// retryAfter is what a device is told where the records can't be read: a failover of the database takes less.
	retryAfter = 15 * time.Second
)

// errReplaced ends a channel whose device opened too many others since.
var errReplaced = errors.New("the device opened another channel")

// session is one open channel. One goroutine uses it, but for replace.
type session struct {
	conn    *channel.Conn
	a       *admission
	from    netip.Addr
	limit   *rate.Limiter
	replace chan struct{} // closed under the service's lock, once
}

func newSession(s *Service, c *channel.Conn, a *admission, from netip.Addr) *session {
	per := rate.Limit(s.opts.RequestRate)
	return &session{conn: c, a: a, from: from, replace: make(chan struct{}),
		limit: rate.NewLimiter(per, int(max(1, s.opts.RequestRate*requestBurst)))}
}

// replaced tells whether the device opened too many others since.
func (s *session) replaced() bool {
	select {
	case <-s.replace:
		return true
	default:
		return false
	}
}

// enter adds a session to its device's. Where they are too many, the oldest ends.
func (s *Service) enter(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	record := one.a.device.Record
	all := s.open[record]
	if len(all) >= s.opts.MaxPerDevice {
		close(all[0].replace)
		all = all[1:]
	}
	s.open[record] = append(slices.Clone(all), one)
}

func (s *Service) leave(one *session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	record := one.a.device.Record
	all := slices.DeleteFunc(slices.Clone(s.open[record]), func(o *session) bool { return o == one })
	if len(all) == 0 {
		delete(s.open, record)
		return
	}
	s.open[record] = all
}

// converse answers requests until the device ends the channel, the service stops, or one of them has had enough.
func (s *Service) converse(ctx, work context.Context, one *session) {
	s.enter(one)
	defer s.leave(one)
	defer one.conn.Close()
	// What ends the wait for a request, and nothing else.
	wait, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-one.replace:
			cancel(errReplaced)
		case <-wait.Done():
		}
	}()
	for last := uint64(0); ; last++ {
		message, err := one.conn.Receive(wait)
		if err == nil && one.replaced() { // the request came in the moment between
			err = errReplaced
		}
		if err != nil {
			s.end(work, one, errors.Join(err, context.Cause(wait)))
			return
		}
		request, err := call.ParseRequest(message)
		if err != nil || request.ID != last+1 {
			s.opts.Log.Info("channel out of step", "record", one.a.device.Record.Short(), "error", err)
			s.end(work, one, err)
			return
		}
		if err := one.limit.Wait(wait); err != nil {
			s.end(work, one, err)
			return
		}
		goOn, err := s.answer(work, one, request)
		if err != nil || !goOn {
			s.end(work, one, err)
			return
		}
	}
}

// answer serves one request and tells whether the channel goes on.
func (s *Service) answer(work context.Context, one *session, r call.Request) (goOn bool, err error) {
	ctx, cancel := context.WithTimeout(work, requestTime)
	defer cancel()
	d, err := s.current(ctx, one.a.hello)
	if d.Record != one.a.device.Record { // a board swap: the identity is another chip's now
		d = issued.Device{} // of which this one learns nothing
		if err == nil {
			err = refuse(ReasonSuperseded, nil)
		}
	}
	a := call.Answer{ID: r.ID, Status: call.Refused}
	caller := Caller{Hello: one.a.hello, Device: d, Source: one.from}
	handler, known := s.handlers[r.Method]
	switch reason := reasonOf(err); {
	case err == nil && !known:
		goOn, a.Status = true, call.Unknown
	case err == nil:
		goOn = true
		if a.Body, err = handler.Serve(ctx, caller, r.Body); err != nil {
			a.Status, a.Body = statusFor(err)
			if a.Status == call.Failed {
				s.opts.Log.Error("a service failed", "method", r.Method, "record", d.Record.Short(), "error", err)
			}
		} else {
			a.Status = call.OK
		}
	case reason == ReasonAway:
		goOn, a.Status, a.Body = true, call.Busy, call.EncodeRetry(retryAfter)
		s.opts.Log.Warn("the records can't be read", "error", err)
	case r.Method == call.MethodStatus: // the last thing that it learns
		a.Status, a.Body = call.OK, statusOf(caller).Encode()
	}
	label := r.Method
	if !known {
		label = "other"
	}
	s.metrics.requests.WithLabelValues(label, a.Status.String()).Inc()
	b, err := a.Encode()
	if err != nil {
		s.opts.Log.Error("a service's answer can't be sent", "method", r.Method, "error", err)
		if b, err = (call.Answer{ID: r.ID, Status: call.Failed}).Encode(); err != nil {
			return false, err
		}
	}
	return goOn, one.conn.Send(ctx, b)
}

// end ends the channel properly, so that the device can tell it from a cut.
func (s *Service) end(work context.Context, one *session, why error) {
	ctx, cancel := context.WithTimeout(work, endTime)
	defer cancel()
	err := one.conn.CloseWrite(ctx)
	s.opts.Log.Debug("channel ends", "record", one.a.device.Record.Short(), "cause", why, "error", err)
}
