package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/identity"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

// wholeLife is what a test reads of device show.
type wholeLife struct {
	Generations []struct {
		Generation int
		Identity   string
		State      string
	}
	Notices []struct {
		Type     string
		Sequence *int64
		SetAside string `json:"set_aside"`
	}
	Swaps  []struct{ Taken bool }
	Orders []struct{ Act string }
}

func (p *place) show(record identity.RecordID) wholeLife {
	p.t.Helper()
	var h wholeLife
	must(p.t, json.Unmarshal([]byte(p.run("spp", "device", "show", "-c", "spp.yaml", "--json", record.String())), &h))
	return h
}

// TestLife is a device's life beside a running SPP and sequencer: shipped, returned and shipped again, its board
// swapped, which the registry must have been told before the new board gets the identity; and the station revoked.
func TestLife(t *testing.T) {
	t.Parallel()
	sequencerAddress := freeAddress(t)
	p := newPlace(t, t.TempDir(), "https://"+sequencerAddress)
	p.setUp()
	d, c := newDevice(t)
	board, boardChip := newDevice(t)
	must(t, d.WriteROM(t.Context(), p.publicKey("rom-key.pem")))
	must(t, board.WriteROM(t.Context(), p.publicKey("rom-key.pem")))
	p.deliver("delivery.cose", "chip maker", c, boardChip)
	p.run("spp", "chips", "import", "-c", "spp.yaml", "delivery.cose")
	p.write("imeis.csv", []byte("00440200,000000,000002\n"))
	p.run("spp", "pool", "import", "-c", "spp.yaml", "--batch", "first", "--line", "phone", "imeis.csv")
	p.sequence(sequencerAddress)
	s := p.serve(p.certify("line-1", "--kind", "station", "--line", "phone", "--tac", "00440200-00440299", "--quota", "10"))
	begun, err := s.ship(t.Context(), d)
	must(t, err)
	old, fresh := identity.RecordID(begun.RecordId), boardChip.ID().RecordID()
	order := []string{"-c", "spp.yaml", "--reason", "the test says so", "--operator", "alice"}

	// Returned, it ships again once it has shown its lock.
	p.run("spp", append([]string{"device", "return", old.String()}, order...)...)
	published, err := s.station.Publish(t.Context(), connect.NewRequest(&provisioningrpc.PublishRequest{RecordId: old[:], Generation: 1}))
	must(t, err)
	locked, err := d.Published(t.Context(), published.Msg.Mac)
	must(t, err)
	_, err = s.station.Locked(t.Context(), connect.NewRequest(&provisioningrpc.LockedRequest{RecordId: old[:], Generation: 1, Mac: locked}))
	must(t, err)
	if h := p.show(old); h.Generations[0].State != "shipped" {
		t.Errorf("returned and locked, it is %+v", h)
	}

	// Swapped: the sequencer takes the statement, then the new board the identity.
	swap := append([]string{"device", "swap", "--from", old.String(), "--to", fresh.String()}, order...)
	p.run("spp", swap...)
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		h := p.show(old)
		if len(h.Notices) == 1 && h.Notices[0].Sequence != nil {
			break
		}
		if len(h.Notices) != 1 || h.Notices[0].Type != "scrap" || h.Notices[0].SetAside != "" || time.Now().After(end) {
			t.Fatalf("the registry has not taken the statement: %+v", h)
		}
	}
	if out := p.run("spp", swap...); !strings.Contains(out, "Take the new one through the line as any other\n") {
		t.Errorf("the line takes it now, and the command says:\n%s", out)
	}
	_, err = s.ship(t.Context(), board)
	must(t, err)
	before, after := p.show(old), p.show(fresh)
	if before.Generations[0].State != "scrapped" || after.Generations[0].State != "shipped" || after.Generations[0].Identity != before.Generations[0].Identity || !after.Swaps[0].Taken {
		t.Errorf("old board %+v, new board %+v", before, after)
	}
	if out := p.run("spp", swap...); !strings.Contains(out, "nothing is left to do") {
		t.Errorf("the swap is done, and the command says:\n%s", out)
	}

	// Revoked, the station is refused with its next call on the same connection.
	p.run("spp", append([]string{"station", "revoke", "line-1"}, order...)...)
	_, err = s.station.Status(t.Context(), connect.NewRequest(&provisioningrpc.StatusRequest{RecordId: fresh[:]}))
	if err == nil || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a revoked station gets %v", err)
	}
	s.stop()

	for _, record := range []identity.RecordID{old, fresh} {
		out := p.run("spp", "device", "show", "-c", "spp.yaml", record.String()) + p.run("spp", "device", "show", "-c", "spp.yaml", "--json", record.String())
		for _, id := range []identity.ChipID{c.ID(), boardChip.ID()} {
			if strings.Contains(out, fmt.Sprintf("%x", id.Bytes())) {
				t.Errorf("device show %s holds a chip ID", record.Short())
			}
		}
	}
}
