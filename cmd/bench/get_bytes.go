package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

// bytesCmd serves one answer to whoever asks for anything: what net/http takes for it, whatever
// the registry does besides. It runs in a process of its own, as the registry does.
type bytesCmd struct {
	File string `arg:"" help:"File of the servedAnswer, JSON."`
}

// servedAnswer is what it answers.
type servedAnswer struct {
	Header http.Header
	Body   []byte
}

// What the registry's program sets too.
const (
	bytesDrain   = time.Second
	bytesRead    = 10 * time.Second
	bytesWrite   = 30 * time.Second
	bytesHeaders = 16 << 10
)

func (c *bytesCmd) Run(ctx context.Context, io console.IO) error {
	raw, err := os.ReadFile(c.File)
	if err != nil {
		return err
	}
	var a servedAnswer
	if err := json.Unmarshal(raw, &a); err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	fmt.Fprintln(io.Out, listener.Addr())
	server := &http.Server{ReadTimeout: bytesRead, WriteTimeout: bytesWrite, MaxHeaderBytes: bytesHeaders,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			h := w.Header()
			for name, values := range a.Header {
				h[name] = values
			}
			_, _ = w.Write(a.Body) // a lost client has no use for the error
		})}
	return console.ServeHTTP(ctx, server, listener, bytesDrain)
}

// bytesServer is a running bytesCmd.
type bytesServer struct {
	address string
	cmd     *exec.Cmd
}

// startBytes starts this program as such a server.
func startBytes(ctx context.Context, dir string, a servedAnswer) (*bytesServer, error) {
	raw, err := json.Marshal(a)
	if err != nil {
		return nil, err
	}
	file := filepath.Join(dir, "answer.json")
	if err := os.WriteFile(file, raw, 0o600); err != nil {
		return nil, err
	}
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// It ends with its context at the latest.
	cmd := exec.CommandContext(ctx, program, "bytes", file)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 2 * bytesDrain
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	s := &bytesServer{cmd: cmd}
	address, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return nil, errors.Join(fmt.Errorf("start the trivial server: it names no address: %w", err), s.stop())
	}
	s.address = strings.TrimSpace(address)
	return s, nil
}

// stop ends the server.
func (s *bytesServer) stop() error {
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return s.cmd.Wait()
}
