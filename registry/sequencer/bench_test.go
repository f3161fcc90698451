package sequencer_test

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

// BenchmarkSubmit measures submissions over mutual TLS into Postgres; one
// operation is one entry. Entries are made and signed before.
func BenchmarkSubmit(b *testing.B) {
	for _, shape := range []struct{ submitters, size int }{{1, 1}, {8, 1}, {1, 100}, {8, 100}, {2, 1000}} {
		b.Run(fmt.Sprintf("submitters=%d/entries=%d", shape.submitters, shape.size), func(b *testing.B) {
			d := storetest.New(b)
			r := start(b, store.NewWriter(d.Open(d.Roles.Sequencer)))
			raws := make([][]byte, (b.N+shape.size-1)/shape.size)
			n := 0
			for i := range raws {
				s := registry.Submission{Realm: identity.Development, Submitter: submitterName}
				for range shape.size {
					n++
					e := registry.Entry{Realm: identity.Development, Type: registry.Register, Record: registrytest.Chip(b, n).RecordID(), Generation: 1,
						Sealed: keypackage.Sealed{Ciphertext: make([]byte, 900)}.Encode()}
					s.Entries = append(s.Entries, registrytest.Encode(b, e))
				}
				var err error
				if raws[i], err = registry.SignSubmission(b.Context(), submissionKey(b), s); err != nil {
					b.Fatal(err)
				}
			}
			var next atomic.Int64
			var wg sync.WaitGroup
			b.ResetTimer()
			for range shape.submitters {
				c := r.spp(b)
				wg.Go(func() {
					for {
						i := next.Add(1) - 1
						if i >= int64(len(raws)) {
							return
						}
						acks, err := c.Submit(b.Context(), raws[i])
						if err != nil || acks[0].Err != nil {
							b.Error(err)
							return
						}
					}
				})
			}
			wg.Wait()
			b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}
