package ha

import (
	"bytes"
	"fmt"
	"path/filepath"
	"text/template"
	"time"
)

// node is a Patroni and its Postgres: what stands for a machine.
type node struct {
	c         *Cluster
	name      string
	port, api int             // of Postgres, of Patroni
	ended     <-chan struct{} // closed when Patroni has; nil before its first start
}

func (n *node) dir() string    { return filepath.Join(n.c.dir, n.name) }
func (n *node) data() string   { return filepath.Join(n.dir(), "data") }
func (n *node) config() string { return filepath.Join(n.dir(), "patroni.yaml") }

// configuration is what a node's Patroni reads. What stands under bootstrap.dcs goes to etcd when the
// cluster begins, and is changed there from then on (patronictl edit-config).
var configuration = template.Must(template.New("patroni").Parse(`# A node of the cluster in {{.Cluster}}, for trials: see the README of deploy/ha.
scope: {{.Scope}}
name: {{.Name}}

etcd3:
  protocol: https
  hosts: [{{range $i, $e := .Etcds}}{{if $i}}, {{end}}"{{$.Loopback}}:{{$e}}"{{end}}]
  cacert: {{.CA}}
  cert: {{.Certificate}}
  key: {{.Key}}

# Who may change something has a certificate.
restapi:
  listen: {{.Loopback}}:{{.API}}
  connect_address: {{.Loopback}}:{{.API}}
  certfile: {{.Certificate}}
  keyfile: {{.Key}}
  cafile: {{.CA}}
  verify_client: required
ctl:
  cacert: {{.CA}}
  certfile: {{.Certificate}}
  keyfile: {{.Key}}

bootstrap:
  dcs:
    ttl: {{.TTL}}
    loop_wait: {{.LoopWait}}
    retry_timeout: {{.RetryTimeout}}
    # Nothing is acknowledged that only the leader has, and none but who has it may lead: without a
    # standby, commits wait (strict) instead of going on alone.
    synchronous_mode: true
    synchronous_mode_strict: true
    synchronous_node_count: 1
    postgresql:
      use_slots: true
      # A former leader throws away what it alone had, and follows.
      use_pg_rewind: true
      parameters:
        wal_level: replica
        wal_log_hints: "on" # for pg_rewind
        hot_standby: "on"
        max_connections: 100
        max_wal_senders: 10
        max_replication_slots: 10
        # How soon a standby that a new leader turned away (its slot there is made a moment later) tries again.
        # Until one has come back every commit waits, and by itself it waits 5 s.
        wal_retrieve_retry_interval: 500ms
        # fsync, full_page_writes and synchronous_commit stay on, as they are by themselves.

postgresql:
  listen: {{.Loopback}}:{{.Port}}
  connect_address: {{.Loopback}}:{{.Port}}
  data_dir: {{.Data}}
  bin_dir: {{.Programs}}
  pgpass: {{.Dir}}/pgpass
  remove_data_directory_on_rewind_failure: true
  remove_data_directory_on_diverged_timelines: true
  basebackup:
    - checkpoint: fast
  authentication:
    superuser: {username: postgres, password: "{{.Superuser}}"}
    replication: {username: {{.Replicator}}, password: "{{.Replication}}"}
  pg_hba:
    - hostssl all all {{.Loopback}}/32 scram-sha-256
    - hostssl replication {{.Replicator}} {{.Loopback}}/32 scram-sha-256
  parameters:
    unix_socket_directories: ""
    password_encryption: scram-sha-256
    ssl: "on"
    ssl_cert_file: {{.Certificate}}
    ssl_key_file: {{.Key}}
    shared_buffers: 32MB
    jit: "off"
    dynamic_shared_memory_type: mmap # in the data folder, where a kill leaves nothing behind
    # No statement and no value of a row in the log.
    log_error_verbosity: terse
    log_min_error_statement: panic
    log_parameter_max_length_on_error: 0
    log_timezone: UTC
    timezone: UTC
`))

func (n *node) write() error {
	c := n.c
	var etcds []int
	for _, e := range c.etcds {
		etcds = append(etcds, e.client)
	}
	var b bytes.Buffer
	err := configuration.Execute(&b, map[string]any{
		"Cluster": c.dir, "Scope": scope, "Name": n.name, "Loopback": loopback, "Etcds": etcds, "Port": n.port, "API": n.api,
		"CA": c.tls("ca.pem"), "Certificate": c.tls("server.pem"), "Key": c.tls("server.key"),
		"TTL": int(TTL.Seconds()), "LoopWait": int(LoopWait.Seconds()), "RetryTimeout": int(RetryTimeout.Seconds()),
		"Dir": n.dir(), "Data": n.data(), "Programs": c.bin,
		"Superuser": string(c.superuser.Bytes()), "Replicator": replicator, "Replication": string(c.replication.Bytes()),
	})
	if err != nil {
		return err
	}
	return c.write(n.config(), b.Bytes())
}

// start starts the node's Patroni, which starts Postgres.
func (n *node) start() error {
	if n.ended != nil {
		select {
		case <-n.ended:
		default:
			return fmt.Errorf("start %s: it runs already", n.name)
		}
	}
	if err := n.c.makeDir(n.dir()); err != nil {
		return err
	}
	if err := n.write(); err != nil {
		return err
	}
	program, err := find("patroni")
	if err != nil {
		return err
	}
	n.ended, err = run(n.c.who.command(n.dir(), program, n.config()), n.c.Log(n.name))
	return err
}

func (c *Cluster) node(name string) (*node, error) {
	for _, n := range c.nodes {
		if n.name == name {
			return n, nil
		}
	}
	return nil, fmt.Errorf("there is no node %q", name)
}

// Kill ends a node by SIGKILL, Patroni, Postgres and all its children, as the loss of the machine
// would (but that the kernel says goodbye to their peers). Its etcd goes on.
func (c *Cluster) Kill(name string) error {
	n, err := c.node(name)
	if err != nil {
		return fmt.Errorf("kill: %w", err)
	}
	if err := killProcesses(n.dir()); err != nil {
		return fmt.Errorf("kill %s: %w", name, err)
	}
	select {
	case <-n.ended:
		return nil
	case <-time.After(killBound):
		return fmt.Errorf("kill %s: its Patroni is still there after %s", name, killBound)
	}
}

// StartNode starts a node that was killed. It rejoins by itself; AwaitWhole tells when.
func (c *Cluster) StartNode(name string) error {
	n, err := c.node(name)
	if err != nil {
		return err
	}
	return n.start()
}
