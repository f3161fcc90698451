package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"net"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"
)

// load asks a server for things over HTTP/1.1, on connections that are kept open, one request at a
// time on each. It shares the machine with the server, so it does as little as it can: it sends
// requests written beforehand and reads no more of an answer than status and length.
type load struct {
	address  string
	conns    int
	requests [][]byte      // sent in turn, each connection beginning elsewhere
	once     bool          // each request is sent once
	duration time.Duration // unless once
}

// loadIO bounds one request and its answer: longer than anything here takes.
const loadIO = 10 * time.Second

// request writes a GET as Go's own client would.
func request(address, path, accept string) []byte {
	return fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: Go-http-client/1.1\r\nAccept: %s\r\nAccept-Encoding: gzip\r\n\r\n", path, address, accept)
}

// run gives answers a second, and how long each took.
func (l load) run(ctx context.Context) (perSecond float64, times []time.Duration, err error) {
	group, ctx := errgroup.WithContext(ctx)
	took := make([][]time.Duration, l.conns)
	begin := time.Now()
	for c := range l.conns {
		group.Go(func() (err error) {
			took[c], err = l.one(ctx, c, begin)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return 0, nil, fmt.Errorf("ask %s: %w", l.address, err)
	}
	spent := time.Since(begin).Seconds()
	for _, t := range took {
		times = append(times, t...)
	}
	return float64(len(times)) / spent, times, nil
}

// one is the work of one connection.
func (l load) one(ctx context.Context, number int, begin time.Time) (times []time.Duration, err error) {
	conn, err := (&net.Dialer{Timeout: loadIO}).DialContext(ctx, "tcp", l.address)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(begin.Add(l.duration + time.Duration(len(l.requests))*time.Second + loadIO)); err != nil {
		return nil, err
	}
	r := bufio.NewReaderSize(conn, 16<<10)
	for i := number; ctx.Err() == nil; i += l.conns {
		if l.once && i >= len(l.requests) || !l.once && time.Since(begin) >= l.duration {
			return times, nil
		}
		sent := time.Now()
		if _, err := conn.Write(l.requests[i%len(l.requests)]); err != nil {
			return nil, err
		}
		if err := skipAnswer(r); err != nil {
			return nil, err
		}
		times = append(times, time.Since(sent))
	}
	return nil, context.Cause(ctx)
}

var (
	statusOK      = []byte("HTTP/1.1 200 OK\r\n")
	contentLength = []byte("Content-Length: ")
)

// skipAnswer reads an answer to its end. It takes nothing but a 200 with a length.
func skipAnswer(r *bufio.Reader) error {
	line, err := r.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.Equal(line, statusOK) {
		return fmt.Errorf("the answer is %.60q", bytes.TrimSpace(line))
	}
	length := -1
	for {
		if line, err = r.ReadSlice('\n'); err != nil {
			return err
		}
		if len(line) <= 2 {
			break
		}
		if v, ok := bytes.CutPrefix(line, contentLength); ok {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(v))); err != nil {
				return err
			}
		}
	}
	if length < 0 {
		return fmt.Errorf("the answer has no length")
	}
	_, err = r.Discard(length)
	return err
}
