package message_test

import (
	"testing"

	"github.com/devicekeys/devicekeys/message"
	"github.com/devicekeys/devicekeys/statement"
)

// BenchmarkSeal and BenchmarkOpen: a signed message of 1 KiB, keys in memory.
func BenchmarkSeal(b *testing.B) {
	to, from, m := device(b, "device"), newSoftware(b, "sender"), newMessage(b, string(make([]byte, 1<<10)))
	for b.Loop() {
		if _, err := message.Seal(b.Context(), to.Certificate, m, from); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkOpen(b *testing.B) {
	to, from := device(b, "device"), newSoftware(b, "sender")
	policy := message.Policy{Senders: []statement.PublicKey{from.public}}
	raw, err := message.Seal(b.Context(), to.Certificate, newMessage(b, string(make([]byte, 1<<10))), from)
	must(b, err)
	for b.Loop() {
		if _, err := message.Open(b.Context(), to, raw, policy); err != nil {
			b.Fatal(err)
		}
	}
}
