package provisioning

import (
	"testing"
	"time"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
)

// TestOurs: what another SPP has put into the outbox is left to it for a while; what is our own, what
// somebody waits for here, notices, and what stood there at the start is sent at once.
func TestOurs(t *testing.T) {
	t.Parallel()
	id := func(n byte) deviceID { return deviceID{Record: identity.RecordID{n}, Generation: 1} }
	entry := func(n byte) records.Pending { return records.Pending{Record: id(n).Record, Generation: 1} }
	notice := records.Pending{Record: id(9).Record, Generation: 1, Type: 3}
	p := newPublisher(Config{}, nil, func(deviceID) {})
	now := time.Now().Add(time.Second)
	pick := func(after time.Duration, whole bool, all ...records.Pending) string {
		names := ""
		for _, w := range p.ours(all, now.Add(after), whole) {
			names += string('a' + rune(w.Record[0]))
		}
		return names
	}
	check := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: picked %q, want %q", what, got, want)
		}
	}
	check("a part, at the start", pick(0, false, entry(1), entry(2)), "bc")
	check("all, at the start", pick(0, true, entry(1), entry(2)), "bc")
	p.expect(id(3))
	_, leave := p.wait(id(4))
	check("later", pick(0, true, entry(3), entry(4), entry(5), notice), "dej")
	leave()
	check("what was taken on at the start", pick(time.Millisecond, false, entry(1), entry(5)), "b")
	check("left for too long", pick(strangerWait, true, entry(5), entry(6)), "f")
	check("seen anew", pick(strangerWait+time.Millisecond, true, entry(6)), "")
	if len(p.trust.own) != 0 {
		t.Errorf("%d entries that have left the outbox are remembered", len(p.trust.own))
	}
	check("the same later", pick(2*strangerWait+time.Millisecond, true, entry(6)), "g")
}
