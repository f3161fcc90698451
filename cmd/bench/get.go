package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/registry"
)

const (
	getRecords = 20_000 // in the database; the first getCached of them are asked for again and again
	getCached  = 1_000
	getConns   = 32
	getSeconds = 2 // of each measurement

	media = registry.MediaCBOR
)

func init() {
	benches = append(benches, bench.Bench{Name: "get", Summary: "entries over HTTP, from the registry's memory against a trivial handler, and from Postgres", Run: runGet})
}

func runGet(ctx context.Context, e *bench.Env) (_ []bench.Result, err error) {
	d, err := openDepot(ctx, e, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	records := e.Size(getRecords, 2*getCached)
	if err := d.fill(ctx, e, records); err != nil {
		return nil, err
	}
	if err := d.serveRegistry(ctx); err != nil {
		return nil, err
	}
	address := d.Address("registry")
	answer, err := fetch(ctx, "http://"+address+recordPath(0))
	if err != nil {
		return nil, err
	}
	trivial, err := startBytes(ctx, e.Dir, answer)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, trivial.stop()) }()
	duration := time.Duration(e.Size(getSeconds, 1)) * time.Second
	cached := func(address string, pid int, spent *served) func(context.Context) (float64, error) {
		l := load{address: address, conns: getConns, requests: requests(address, 0, getCached), duration: duration}
		return func(ctx context.Context) (float64, error) { return spent.measure(ctx, l, pid) }
	}
	var ours, bound served
	c, err := bench.Compare(ctx, e.Rounds, cached(address, d.Server("registry").PID(), &ours), cached(trivial.address, trivial.cmd.Process.Pid, &bound))
	if err != nil {
		return nil, err
	}
	// Each of the others once: none of them is in memory yet.
	perSecond, times, err := load{address: address, conns: getConns, requests: requests(address, getCached, records), once: true}.run(ctx)
	if err != nil {
		return nil, err
	}
	latency, err := bench.Percentiles(times)
	if err != nil {
		return nil, err
	}
	size := strconv.Itoa(len(answer.Body))
	return []bench.Result{
		bench.Compared("get", "requests/s", "a trivial handler giving the same "+size+" bytes and header, same load", c).AtLeast(0.7, 0.9).
			Note("connections", getConns).Note("records", getCached).
			Note("cpu_us_per_request", ours.each()).Note("bound_cpu_us_per_request", bound.each()),
		bench.Measured("get-uncached", perSecond, "requests/s").Note("connections", getConns).Note("latency", latency),
	}, nil
}

// served is the CPU that a server has used, and the requests that it answered for it.
type served struct {
	cpu      time.Duration
	requests int
}

// measure runs a load and adds what it cost the server, the warm-up's too.
func (s *served) measure(ctx context.Context, l load, pid int) (float64, error) {
	before, err := cpu(pid)
	if err != nil {
		return 0, err
	}
	perSecond, times, err := l.run(ctx)
	if err != nil {
		return 0, err
	}
	after, err := cpu(pid)
	s.cpu += after - before
	s.requests += len(times)
	return perSecond, err
}

// each gives the microseconds for each request.
func (s served) each() float64 {
	return float64(s.cpu.Microseconds()) / float64(max(s.requests, 1))
}

// recordPath is where record n is, the one generation that it has.
func recordPath(n int) string { return "/records/" + madeRecord(n).String() + "/1" }

func requests(address string, from, to int) [][]byte {
	var all [][]byte
	for n := from; n < to; n++ {
		all = append(all, request(address, recordPath(n), media))
	}
	return all
}

// serveRegistry starts the registry's program as the demo has it: HTTP without TLS, which is some
// proxy's in front of it, and no limit that a single client would meet.
func (d *depot) serveRegistry(ctx context.Context) error {
	password, err := d.Postgres.Role(ctx, "reader")
	if err != nil {
		return err
	}
	config := "listen: " + d.Address("registry") + "\nmetrics_listen: " + d.Address("registry metrics") + "\n" +
		"database:\n  dsn: " + d.Postgres.DSN(registryName, "reader") + "\n  password_file: " + password + "\nrate: 1e9\nburst: 1000000000\n"
	if err := os.WriteFile(d.Etc("registry.yaml"), []byte(config), 0o600); err != nil {
		return err
	}
	return d.Serve(ctx, "registry", d.With("registry", ""))
}

// fetch takes an answer whole. What net/http adds to every answer is left out of the header.
func fetch(ctx context.Context, url string) (servedAnswer, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return servedAnswer{}, err
	}
	req.Header.Set("Accept", media)
	client := &http.Client{Timeout: loadIO, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := client.Do(req)
	if err != nil {
		return servedAnswer{}, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		return servedAnswer{}, err
	}
	if res.StatusCode != http.StatusOK {
		return servedAnswer{}, fmt.Errorf("ask the registry: it answered %s", res.Status)
	}
	res.Header.Del("Date")
	res.Header.Del("Connection")
	return servedAnswer{res.Header, body}, nil
}
