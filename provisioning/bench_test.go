package provisioning_test

import (
	"fmt"
	"testing"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/provisioning/grant"
)

// BenchmarkDevices takes software chips through the whole path over TLS, with
// Postgres (not durable, as tests have it), sequencer, and the devices' own
// work in this process. It reports devices per second and PKCS#11 calls of the
// SPP per device.
func BenchmarkDevices(b *testing.B) {
	for _, flight := range []int{1, 8, 32} {
		b.Run(fmt.Sprintf("flight=%d", flight), func(b *testing.B) {
			l := newLine(b)
			l.stock(b, 0, b.N)
			station := l.station(b, func(g *grant.Grant) { g.Quota = grant.MaxQuota })
			devices := make([]*fixture, b.N)
			hands := make([]*hand, b.N)
			for i := range devices {
				hands[i] = l.device(b, false)
				devices[i] = on(station, hands[i])
			}
			l.list(b, hands...)
			before := l.hsm.Hsm.Calls()
			b.ResetTimer()
			var group errgroup.Group
			group.SetLimit(flight)
			for _, f := range devices {
				group.Go(func() error { return f.run(b.Context(), 0) })
			}
			must(b, group.Wait())
			b.StopTimer()
			calls := uint64(0)
			for name, n := range l.hsm.Hsm.Calls() {
				calls += n - before[name]
				if n > before[name] && testing.Verbose() {
					b.Logf("%-24s %6.2f per device", name, float64(n-before[name])/float64(b.N))
				}
			}
			b.ReportMetric(float64(calls)/float64(b.N), "calls/device")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "devices/s")
		})
	}
}
