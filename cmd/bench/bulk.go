package main

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
)

func init() {
	benches = append(benches, bench.Bench{Name: "bulk", Summary: "bytes through an open channel, against AES-GCM on the same buffers over the same loopback", Run: bulk})
}

const (
	bulkMessage = 1 << 20 // bytes: the longest message unless agreed otherwise
	bulkChunk   = 16 << 10
	bulkBatch   = 4   // chunks that the bound writes and reads at once: more than a channel does, so it is no easy one
	bulkCount   = 256 // messages of a round
	bulkWait    = time.Minute
)

// bulk needs no HSM: once a channel is open, none is asked.
func bulk(ctx context.Context, e *bench.Env) ([]bench.Result, error) {
	n := e.Size(bulkCount, 8)
	compared, err := bench.Compare(ctx, e.Rounds,
		func(ctx context.Context) (float64, error) { return throughChannel(ctx, n) },
		func(ctx context.Context) (float64, error) { return throughGCM(ctx, n) })
	if err != nil {
		return nil, err
	}
	return []bench.Result{bench.Compared("bulk", "MiB/s", "AES-256-GCM in chunks of 16 KiB, sealed, sent over loopback by fours, opened", compared).AtLeast(0.7, 0.9).
		Note("message_bytes", bulkMessage).Note("messages", n).Note("suite", channel.SuiteNoise.String())}, nil
}

// loopback gives the two ends of a TCP connection.
func loopback() (a, b net.Conn, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer l.Close()
	if a, err = net.Dial("tcp", l.Addr().String()); err != nil {
		return nil, nil, err
	}
	if b, err = l.Accept(); err != nil {
		return nil, nil, errors.Join(err, a.Close())
	}
	return a, b, nil
}

// benchKey is a device's key in memory.
type benchKey [32]byte

func (k benchKey) MAC(_ context.Context, msg []byte) ([]byte, error) {
	h := hmac.New(sha256.New, k[:])
	h.Write(msg)
	return h.Sum(nil), nil
}

func (k benchKey) Verify(ctx context.Context, msg, mac []byte) error {
	if own, _ := k.MAC(ctx, msg); !hmac.Equal(own, mac) {
		return errors.New("another MAC")
	}
	return nil
}

func (benchKey) Close(context.Context) error { return nil }

func throughChannel(ctx context.Context, n int) (perSecond float64, err error) {
	ctx, cancel := context.WithTimeout(ctx, bulkWait)
	defer cancel()
	a, b, err := loopback()
	if err != nil {
		return 0, err
	}
	defer a.Close()
	defer b.Close()
	id, err := identity.Parse(identity.TypeIMEI, "00440245000000")
	if err != nil {
		return 0, err
	}
	key := benchKey{1}
	hello := channel.Hello{Suite: channel.SuiteNoise, Realm: identity.Development, Key: keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}, Identity: id, Generation: 1}
	admit := func(context.Context, channel.Hello, netip.Addr) (channel.Peer, error) { return key, nil }
	var device, service *channel.Conn
	var group errgroup.Group
	group.Go(func() (err error) {
		service, err = channel.Server(ctx, b, channel.ServiceConfig{Realm: identity.Development, Admit: admit})
		return err
	})
	group.Go(func() (err error) {
		device, err = channel.Client(ctx, a, channel.DeviceConfig{Hello: hello, MAC: key.MAC})
		return err
	})
	if err := group.Wait(); err != nil {
		return 0, err
	}
	message := make([]byte, bulkMessage)
	begun := time.Now()
	group.Go(func() error {
		for range n {
			if err := device.Send(ctx, message); err != nil {
				return err
			}
		}
		return nil
	})
	group.Go(func() error {
		var message []byte
		for range n {
			var err error
			if message, err = service.ReceiveInto(ctx, message); err != nil {
				return err
			}
		}
		return nil
	})
	err = group.Wait()
	return float64(n) * bulkMessage / (1 << 20) / time.Since(begun).Seconds(), err
}

func throughGCM(_ context.Context, n int) (perSecond float64, err error) {
	block, err := aes.NewCipher(make([]byte, 32))
	if err != nil {
		return 0, err
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		return 0, err
	}
	a, b, err := loopback()
	if err != nil {
		return 0, err
	}
	defer a.Close()
	defer b.Close()
	deadline := time.Now().Add(bulkWait)
	if err := errors.Join(a.SetDeadline(deadline), b.SetDeadline(deadline)); err != nil {
		return 0, err
	}
	nonce := make([]byte, gcm.NonceSize()) // of a bound that keeps no secret
	message := make([]byte, bulkMessage)
	var group errgroup.Group
	begun := time.Now()
	group.Go(func() error {
		out := make([]byte, 0, bulkBatch*(bulkChunk+gcm.Overhead()))
		for range n {
			for at := 0; at < bulkMessage; at += bulkChunk {
				if out = gcm.Seal(out, nonce, message[at:at+bulkChunk], nil); len(out) < cap(out) {
					continue
				}
				if _, err := a.Write(out); err != nil {
					return err
				}
				out = out[:0]
			}
		}
		return nil
	})
	group.Go(func() error {
		in := make([]byte, bulkBatch*(bulkChunk+gcm.Overhead()))
		for range n * bulkMessage / bulkChunk / bulkBatch {
			if _, err := io.ReadFull(b, in); err != nil {
				return err
			}
			for left := in; len(left) > 0; left = left[bulkChunk+gcm.Overhead():] {
				sealed := left[:bulkChunk+gcm.Overhead()]
				if _, err := gcm.Open(sealed[:0], nonce, sealed, nil); err != nil {
					return err
				}
			}
		}
		return nil
	})
	err = group.Wait()
	return float64(n) * bulkMessage / (1 << 20) / time.Since(begun).Seconds(), err
}
