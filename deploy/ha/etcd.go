package ha

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// etcdBound bounds the wait for the three to agree on a leader: about a second.
const etcdBound = time.Minute

// poll is the pause between two looks at something that takes seconds.
const poll = 50 * time.Millisecond

// etcd is one of the three that keep who leads.
type etcd struct {
	c            *Cluster
	name         string
	client, peer int // ports
}

func (e *etcd) start() error {
	dir := filepath.Join(e.c.dir, e.name)
	if err := e.c.makeDir(dir); err != nil {
		return err
	}
	var peers []string
	for _, o := range e.c.etcds {
		peers = append(peers, o.name+"="+url(o.peer))
	}
	program, err := find("etcd")
	if err != nil {
		return err
	}
	cert, key, ca := e.c.tls("server.pem"), e.c.tls("server.key"), e.c.tls("ca.pem")
	_, err = run(e.c.who.command(dir, program,
		"--name", e.name, "--data-dir", filepath.Join(dir, "data"), "--logger", "zap",
		"--listen-client-urls", url(e.client), "--advertise-client-urls", url(e.client),
		"--listen-peer-urls", url(e.peer), "--initial-advertise-peer-urls", url(e.peer),
		"--initial-cluster", strings.Join(peers, ","), "--initial-cluster-token", scope, "--initial-cluster-state", "new",
		"--cert-file", cert, "--key-file", key, "--client-cert-auth", "--trusted-ca-file", ca,
		"--peer-cert-file", cert, "--peer-key-file", key, "--peer-client-cert-auth", "--peer-trusted-ca-file", ca,
	), filepath.Join(dir, "etcd.log"))
	return err
}

func url(port int) string { return fmt.Sprintf("https://%s:%d", loopback, port) }

// awaitEtcd returns when each of the three says that it is healthy.
func (c *Cluster) awaitEtcd(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, etcdBound)
	defer cancel()
	for _, e := range c.etcds {
		for {
			err := c.get(ctx, url(e.client)+"/health", nil)
			if err == nil {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("%s is not healthy (%w): see %s", e.name, err, filepath.Join(c.dir, e.name, "etcd.log"))
			case <-time.After(poll):
			}
		}
	}
	return nil
}

// run starts a server whose output goes to a log.
func run(cmd *exec.Cmd, log string) (ended <-chan struct{}, err error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, err
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() { // ends with the server
		cmd.Wait() // how it ended is in the log
		close(done)
	}()
	return done, nil
}

// errRefused is an answer that says no, where others say that something went wrong.
var errRefused = errors.New("refused")

func statusError(r *http.Response, body []byte) error {
	err := fmt.Errorf("%s: %s", r.Status, strings.TrimSpace(string(body)))
	if r.StatusCode < http.StatusInternalServerError {
		return fmt.Errorf("%w: %w", errRefused, err)
	}
	return err
}
