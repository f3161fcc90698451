package store_test

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"runtime"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

// bulk makes entries of the usual size that nobody can open: sealing is not measured here.
func bulk(n int) []store.New {
	out := make([]store.New, n)
	for i := range out {
		e := registry.Entry{Realm: identity.Development, Type: registry.Register, Generation: 1}
		s := keypackage.Sealed{Ciphertext: make([]byte, 900)}
		rand.Read(e.Record[:])
		rand.Read(s.Nonce[:])
		rand.Read(s.Ciphertext)
		e.Sealed = s.Encode()
		out[i] = store.New{Entry: e, SealedHash: sha256.Sum256(e.Sealed), LeafHash: e.LeafHash()}
	}
	return out
}

// BenchmarkAppend measures batches as the sequencer writes them; one operation is one entry.
func BenchmarkAppend(b *testing.B) {
	for _, size := range []int{1, 10, 100, 1000} {
		b.Run(fmt.Sprintf("batch=%d", size), func(b *testing.B) {
			d := storetest.New(b)
			w := store.NewWriter(d.Open(d.Roles.Sequencer))
			var head int64
			b.ResetTimer()
			for done := 0; done < b.N; done += size {
				b.StopTimer()
				news := bulk(size)
				records := make([]identity.RecordID, size)
				for i, n := range news {
					records[i] = n.Entry.Record
				}
				b.StartTimer()
				var err error
				if head, err = w.Append(b.Context(), head, records, func([]store.Standing) []store.New { return news }); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "entries/s")
		})
	}
}

// BenchmarkNewest measures lookups of single records among 20,000.
func BenchmarkNewest(b *testing.B) {
	d := storetest.New(b)
	w := store.NewWriter(d.Open(d.Roles.Sequencer))
	var ids []identity.RecordID
	for head := int64(0); head < 20_000; {
		news := bulk(1000)
		for _, n := range news {
			ids = append(ids, n.Entry.Record)
		}
		var err error
		if head, err = w.Append(b.Context(), head, nil, func([]store.Standing) []store.New { return news }); err != nil {
			b.Fatal(err)
		}
	}
	r := d.Reader()
	for _, size := range []int{1, 100} {
		b.Run(fmt.Sprintf("ids=%d", size), func(b *testing.B) {
			i := 0
			for b.Loop() {
				i = (i + size) % (len(ids) - size)
				if found, err := r.Newest(b.Context(), ids[i:i+size]); err != nil || len(found) != size {
					b.Fatal(len(found), err)
				}
			}
			b.ReportMetric(float64(b.N*size)/b.Elapsed().Seconds(), "records/s")
		})
	}
}

// BenchmarkNewestAtOnce measures lookups of single records by eight readers at once.
func BenchmarkNewestAtOnce(b *testing.B) {
	d := storetest.New(b)
	news := bulk(1000)
	if _, err := store.NewWriter(d.Open(d.Roles.Sequencer)).Append(b.Context(), 0, nil, func([]store.Standing) []store.New { return news }); err != nil {
		b.Fatal(err)
	}
	r := d.Reader()
	b.SetParallelism(max(1, 8/runtime.GOMAXPROCS(0)))
	b.ResetTimer() // starting Postgres takes longer than all that follows
	b.RunParallel(func(pb *testing.PB) {
		for i := 0; pb.Next(); i = (i + 1) % len(news) {
			if found, err := r.Newest(b.Context(), []identity.RecordID{news[i].Entry.Record}); err != nil || len(found) != 1 {
				b.Error(len(found), err)
				return
			}
		}
	})
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "records/s")
}
