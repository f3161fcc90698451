package deviceservice

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/deviceservice/call"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
)

// Caller is the device that a request comes from: its channel has proven it.
type Caller struct {
	Hello  channel.Hello
	Device issued.Device // as the records have it at this request
	Source netip.Addr
}

// Handler is one service. Serve gives the answer's body, at most call.MaxBody bytes. An error that is a call.Status is
// answered as that, a *RetryError as call.Busy, and every other one is logged and answered as call.Failed. The context
// ends with the channel and with the service. Requests of one channel come one after another, of several at once.
type Handler interface {
	Serve(ctx context.Context, c Caller, body []byte) ([]byte, error)
}

// HandlerFunc is a function as a Handler.
type HandlerFunc func(ctx context.Context, c Caller, body []byte) ([]byte, error)

// Serve calls f.
func (f HandlerFunc) Serve(ctx context.Context, c Caller, body []byte) ([]byte, error) {
	return f(ctx, c, body)
}

// RetryError says that the service can't answer now.
type RetryError struct {
	After time.Duration // when to ask again
	Err   error
}

func (e *RetryError) Error() string { return "not now: " + e.Err.Error() }
func (e *RetryError) Unwrap() error { return e.Err }

// builtIn are the services that every device finds.
func builtIn() map[string]Handler {
	return map[string]Handler{
		call.MethodTime: HandlerFunc(func(_ context.Context, _ Caller, body []byte) ([]byte, error) {
			if len(body) != 0 {
				return nil, call.Bad
			}
			return call.EncodeTime(time.Now()), nil
		}),
		call.MethodEcho: HandlerFunc(func(_ context.Context, _ Caller, body []byte) ([]byte, error) { return body, nil }),
		call.MethodStatus: HandlerFunc(func(_ context.Context, c Caller, body []byte) ([]byte, error) {
			if len(body) != 0 {
				return nil, call.Bad
			}
			return statusOf(c).Encode(), nil
		}),
	}
}

// statusOf tells a device what the records have.
func statusOf(c Caller) call.DeviceStatus {
	s := call.DeviceStatus{Generation: c.Hello.Generation, Active: c.Device.Active && c.Device.Generation == c.Hello.Generation}
	if c.Device.Active {
		s.Newest = c.Device.Generation
	}
	return s
}

// statusFor turns a handler's error into what the device is told.
func statusFor(err error) (status call.Status, body []byte) {
	var retry *RetryError
	switch {
	case err == nil:
		return call.OK, nil
	case errors.As(err, &retry):
		return call.Busy, call.EncodeRetry(retry.After)
	case errors.As(err, &status) && status != call.OK:
		return status, nil
	}
	return call.Failed, nil
}
