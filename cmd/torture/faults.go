package main

import (
	"time"

	"github.com/devicekeys/devicekeys/fault"
)

// The kinds of fault.
const (
	kill       fault.Kind = "kill -9"      // lasts: how long it stays down
	pause      fault.Kind = "pause"        // SIGSTOP, SIGCONT
	crash      fault.Kind = "crash"        // of Postgres: all its processes at once
	reset      fault.Kind = "cut (RST)"    // every connection of a link
	finish     fault.Kind = "cut (FIN)"    //
	delay      fault.Kind = "delay"        // every piece of data
	blackHole  fault.Kind = "black hole"   //
	refuse     fault.Kind = "refuse"       //
	noRequest  fault.Kind = "request lost" // the n-th burst never arrives
	noReply    fault.Kind = "reply lost"   // it arrives, its answer doesn't
	hsmFails   fault.Kind = "HSM call fails"
	hsmForgets fault.Kind = "HSM answer lost" // the call is made
	hsmLost    fault.Kind = "token lost"
	hsmSlow    fault.Kind = "HSM slow"
)

// kinds are all of them, in the order of a report.
var kinds = []fault.Kind{kill, pause, crash, reset, finish, delay, blackHole, refuse, noRequest, noReply, hsmFails, hsmForgets, hsmLost, hsmSlow}

// How bad it gets.
const (
	linkDelay = 200 * time.Millisecond // of each piece of data, under delay
	hsmDelay  = 5 * time.Millisecond   // of each PKCS#11 call, under HSM slow
)

// hsmSuffix and so on make target names.
const (
	hsmSuffix      = "/hsm"
	postgresTarget = "postgres"
)

// targets are what may break in a factory, and how.
func (f *factory) targets() []fault.Target {
	const ms, s = time.Millisecond, time.Second
	down := fault.Act{Kind: kill, Least: 100 * ms, Most: 2 * s}
	still := fault.Act{Kind: pause, Least: 200 * ms, Most: 3 * s}
	var all []fault.Target
	for _, name := range append(f.SPPNames(), "sequencer", "registry") {
		all = append(all, fault.Target{Name: name, Acts: []fault.Act{down, still}})
	}
	for _, name := range f.StationNames() {
		all = append(all, fault.Target{Name: name, Acts: []fault.Act{{Kind: kill}, still}})
	}
	all = append(all, fault.Target{Name: postgresTarget, Acts: []fault.Act{{Kind: crash, Least: 100 * ms, Most: 2 * s}}})
	for _, name := range f.LinkNames() {
		all = append(all, fault.Target{Name: name, Acts: []fault.Act{
			{Kind: reset}, {Kind: finish},
			{Kind: delay, Least: 500 * ms, Most: 3 * s}, {Kind: blackHole, Least: 200 * ms, Most: 5 * s}, {Kind: refuse, Least: 200 * ms, Most: 3 * s},
			{Kind: noRequest, Least: 3 * s, Most: 3 * s, Bursts: 12}, {Kind: noReply, Least: 3 * s, Most: 3 * s, Bursts: 12},
		}})
	}
	for _, spp := range f.SPPNames() {
		if f.shims[spp] != nil {
			all = append(all, fault.Target{Name: spp + hsmSuffix, Acts: []fault.Act{
				{Kind: hsmFails}, {Kind: hsmForgets}, {Kind: hsmLost, Least: 200 * ms, Most: 2 * s}, {Kind: hsmSlow, Least: s, Most: 3 * s},
			}})
		}
	}
	return all
}
