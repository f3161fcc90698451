package channel_test

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"io"
	"testing"
)

// BenchmarkHandshake: a whole handshake of each suite on loopback, both sides in this process.
func BenchmarkHandshake(b *testing.B) {
	for suite, make2 := range suites(b) {
		b.Run(suite.String(), func(b *testing.B) {
			d, s, _ := make2()
			for b.Loop() {
				x, y := opened(b, d, s)
				x.Close()
				y.Close()
			}
		})
	}
}

const bulk = 1 << 20

// BenchmarkBulk: messages of a megabyte through each suite.
func BenchmarkBulk(b *testing.B) {
	for suite, make2 := range suites(b) {
		b.Run(suite.String(), func(b *testing.B) {
			d, s, _ := make2()
			x, y := opened(b, d, s)
			ctx := context.Background()
			go func() {
				var message []byte
				for {
					var err error
					if message, err = y.ReceiveInto(ctx, message); err != nil {
						return
					}
				}
			}()
			message := make([]byte, bulk)
			b.SetBytes(bulk)
			for b.Loop() {
				if err := x.Send(ctx, message); err != nil {
					b.Fatal(err)
				}
			}
			must(b, x.CloseWrite(ctx))
		})
	}
}

// BenchmarkBulkBound: the same bytes sealed by AES-GCM in chunks of 16 KiB, through the same loopback by fours, opened
// there.
func BenchmarkBulkBound(b *testing.B) {
	block, err := aes.NewCipher(make([]byte, 32))
	must(b, err)
	gcm, err := cipher.NewGCM(block)
	must(b, err)
	x, y := pair(b)
	const chunk = 16 << 10
	nonce := make([]byte, gcm.NonceSize())
	go func() {
		room := make([]byte, 4*(chunk+gcm.Overhead()))
		for {
			if _, err := io.ReadFull(y, room); err != nil {
				return
			}
			for left := room; len(left) > 0; left = left[chunk+gcm.Overhead():] {
				sealed := left[:chunk+gcm.Overhead()]
				if _, err := gcm.Open(sealed[:0], nonce, sealed, nil); err != nil {
					return
				}
			}
		}
	}()
	message := make([]byte, bulk)
	out := make([]byte, 0, 4*(chunk+gcm.Overhead()))
	b.SetBytes(bulk)
	for b.Loop() {
		for at := 0; at < bulk; at += chunk {
			out = gcm.Seal(out, nonce, message[at:at+chunk], nil)
			if len(out) == cap(out) {
				if _, err := x.Write(out); err != nil {
					b.Fatal(err)
				}
				out = out[:0]
			}
		}
	}
}
