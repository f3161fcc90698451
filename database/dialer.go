package database

import (
	"context"
	"net"
	"time"
)

// dialer opens connections that notice a vanished peer within peerTimeout, be it
// silent (keep-alive probes) or not acknowledging what was sent (see control).
type dialer struct{ net.Dialer }

func newDialer() *dialer {
	const probes = 3
	return &dialer{net.Dialer{
		Timeout: ConnectTimeout,
		KeepAliveConfig: net.KeepAliveConfig{
			Enable:   true,
			Idle:     peerTimeout / 2,
			Interval: peerTimeout / 2 / probes,
			Count:    probes,
		},
		Control: control,
	}}
}

// DialContext is what lib/pq asks.
func (d *dialer) DialContext(ctx context.Context, network, address string) (net.Conn, error) {
	c, err := d.Dialer.DialContext(ctx, network, address)
	if err == nil {
		leaveSocket(ctx, c)
	}
	return c, err
}

// DialTimeout is asked of a dialer by lib/pq, which prefers DialContext.
func (d *dialer) DialTimeout(network, address string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	return d.DialContext(ctx, network, address)
}
