package registry_test

import (
	"log/slog"
	"net/http"
	"testing"

	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

// nobody takes an answer and forgets it.
type nobody struct{ header http.Header }

func (n nobody) Header() http.Header         { return n.header }
func (n nobody) Write(b []byte) (int, error) { return len(b), nil }
func (n nobody) WriteHeader(int)             {}

// BenchmarkServe measures the handler without a network: answers kept ready, and
// asked of Postgres each time.
func BenchmarkServe(b *testing.B) {
	const records = 500
	d := storetest.New(b)
	var entries []registry.Entry
	for n := range records {
		entries = append(entries, registrytest.Entry(b, n, 1))
	}
	d.Append(entries...)
	for name, cache := range map[string]int64{"kept": 0, "asked": 1} {
		b.Run(name, func(b *testing.B) {
			h, err := registry.NewHandler(d.Reader(), registry.HandlerOptions{CacheBytes: cache, Rate: 1e9, Burst: 1e9, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			b.SetParallelism(8)
			b.RunParallel(func(pb *testing.PB) {
				w := nobody{http.Header{}}
				for i := 0; pb.Next(); i++ {
					r, err := http.NewRequestWithContext(b.Context(), "GET", "/records/"+entries[i%records].Record.String()+"/1", nil)
					if err != nil {
						b.Error(err)
						return
					}
					r.RemoteAddr = "192.0.2.1:1000"
					clear(w.header)
					h.ServeHTTP(w, r)
					if w.header.Get("Devicekeys-Type") != "register" {
						b.Error("not served")
						return
					}
				}
			})
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "requests/s")
		})
	}
}

// BenchmarkOpen measures opening and checking the record of a device with one key.
func BenchmarkOpen(b *testing.B) {
	chip, e, rom := registrytest.Chip(b, 1), registrytest.Entry(b, 1, 1), registrytest.ROM(b).Public()
	for b.Loop() {
		if _, _, err := e.Check(chip, e.Realm, rom); err != nil {
			b.Fatal(err)
		}
	}
}
