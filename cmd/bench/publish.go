package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/devicekeys/devicekeys/bench"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/sequencer"
	"github.com/devicekeys/devicekeys/statement"
)

const (
	publishEntries = 30_000 // of each measurement
	publishBatch   = 500    // of a submission: the most that an SPP's publisher puts into one
	publishSPPs    = 2      // at work at once, each with one submission under way as the publisher has it
	publishName    = "spp-bench"
)

func init() {
	benches = append(benches, bench.Bench{Name: "publish", Summary: "entries made durable by the sequencer, against pgbench inserting such rows", Run: runPublish})
}

func runPublish(ctx context.Context, e *bench.Env) (_ []bench.Result, err error) {
	d, err := openDepot(ctx, e, true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, d.close()) }()
	p := &publishers{depot: d}
	if err := p.open(ctx); err != nil {
		return nil, err
	}
	if err := d.Serve(ctx, "sequencer", d.With("sequencer", "sequencer")); err != nil {
		return nil, err
	}
	if err := d.boundTable(ctx); err != nil {
		return nil, err
	}
	pg, err := newPgbench(ctx, d.Postgres, d.admin, registryName)
	if err != nil {
		return nil, err
	}
	submissions := e.Size(publishEntries/publishBatch, 2*publishSPPs)
	insert := func(ctx context.Context, clients int) (float64, error) {
		if err := d.level(ctx); err != nil {
			return 0, err
		}
		tps, err := pg.run(ctx, e.Dir, pgbenchRun{script: "insert.sql", clients: clients, threads: clients,
			define: map[string]int{"batch": publishBatch}, each: submissions / clients})
		return tps * publishBatch, err
	}
	c, err := bench.Compare(ctx, e.Rounds,
		func(ctx context.Context) (float64, error) { return p.measured(ctx, submissions) },
		func(ctx context.Context) (float64, error) { return insert(ctx, 1) })
	if err != nil {
		return nil, err
	}
	batches, entries, err := p.batches(ctx)
	if err != nil {
		return nil, err
	}
	raw, err := p.prepare(ctx, submissions)
	if err != nil {
		return nil, err
	}
	alone, err := p.publish(ctx, 1, raw)
	if err != nil {
		return nil, err
	}
	wide, err := insert(ctx, 2)
	if err != nil {
		return nil, err
	}
	r := bench.Compared("publish", "entries/s", fmt.Sprintf("pgbench, one client, inserting such rows, %d in a transaction", publishBatch), c).AtLeast(0.5, 0.7).
		Note("spps", publishSPPs).Note("entries_in_submission", publishBatch).Note("sealed_bytes", sealedBytes).
		Note("entries_in_transaction", entries/batches).Note("cpu_ms_per_entry", p.spent.each()).Note("one_spp_entries_per_second", alone).Note("pgbench_two_clients_rows_per_second", wide)
	return []bench.Result{r}, nil
}

// boundTable makes what insert.sql writes into and reads from.
func (d *depot) boundTable(ctx context.Context) error {
	for _, s := range []string{
		`create table bound (like entry including all)`,
		`create sequence bound_seq minvalue 0 start 0 cache 1000`,
		`create table payload (o int primary key, sealed bytea not null, sealed_hash bytea not null, leaf_hash bytea not null)`,
		`alter table payload alter sealed set storage external`,
	} {
		if _, err := d.admin.ExecContext(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
	}
	for o := range publishBatch {
		entry := madeEntry(o)
		hash, leaf := sha256.Sum256(entry.Sealed), entry.LeafHash()
		if _, err := d.admin.ExecContext(ctx, `insert into payload values ($1, $2, $3, $4)`, o+1, entry.Sealed, hash[:], leaf[:]); err != nil {
			return fmt.Errorf("fill the table payload: %w", err)
		}
	}
	_, err := d.admin.ExecContext(ctx, `vacuum analyze payload`)
	return err
}

// publishers are SPPs as the sequencer sees them: a client certificate of the factory's CA, and a
// submission key that the sequencer's configuration names. Both are software keys, since it isn't
// the HSM that is measured here.
type publishers struct {
	*depot
	tls  *tls.Config
	key  statement.SoftwareKey
	next int // number of the next record

	spent spending
}

// open makes the keys, has the custodian certify the one and the sequencer take the other.
func (p *publishers) open(ctx context.Context) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return err
	}
	requestFile, certFile, keyFile := p.Etc(publishName+".csr"), p.Etc(publishName+".pem"), p.Etc(publishName+"-submission.pem")
	if err := os.WriteFile(requestFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request}), 0o600); err != nil {
		return err
	}
	if _, err := p.Run(ctx, p.With("custodian", p.SPPNames()[0]), nil, "certify", "--config", p.Etc("custodian.yaml"), "--kind", "client", "--role", "spp",
		"--name", publishName, "--request", requestFile, "--out", certFile); err != nil {
		return err
	}
	certificate, err := os.ReadFile(certFile)
	if err != nil {
		return err
	}
	block, _ := pem.Decode(certificate)
	if block == nil {
		return fmt.Errorf("read certificate %q: it is not PEM", certFile)
	}
	ca, err := os.ReadFile(p.Public("station-ca.pem"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(ca) {
		return errors.New("read the station CA: there is no certificate in its file")
	}
	p.tls = &tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots, Certificates: []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: key}}}
	if p.key, err = statement.GenerateSoftwareKey(); err != nil {
		return err
	}
	if err := os.WriteFile(keyFile, p.key.Public().PEM(), 0o600); err != nil {
		return err
	}
	config, err := os.ReadFile(p.Etc("sequencer.yaml"))
	if err != nil {
		return err
	}
	mine := strings.Replace(string(config), "submission_keys: [", "submission_keys: ["+keyFile+", ", 1)
	if mine == string(config) {
		return errors.New("the sequencer's configuration has no list of submission keys")
	}
	return os.WriteFile(p.Etc("sequencer.yaml"), []byte(mine), 0o600)
}

// measured is one round, with the CPU that it takes: of Postgres, the sequencer, and this process for the SPPs.
func (p *publishers) measured(ctx context.Context, submissions int) (float64, error) {
	raw, err := p.prepare(ctx, submissions)
	if err != nil {
		return 0, err
	}
	before, err := p.usage()
	if err != nil {
		return 0, err
	}
	perSecond, err := p.publish(ctx, publishSPPs, raw)
	if err != nil {
		return 0, err
	}
	after, err := p.usage()
	if err != nil {
		return 0, err
	}
	p.spent.round(before, after, submissions*publishBatch)
	return perSecond, nil
}

func (p *publishers) usage() (u usage, err error) {
	u = usage{"spps": ownCPU()}
	if u["postgres"], err = cpuOfFamily(p.Postgres.PID()); err != nil {
		return nil, err
	}
	u["sequencer"], err = cpu(p.Server("sequencer").PID())
	return u, err
}

// prepare makes and signs submissions of entries that nobody submitted before.
func (p *publishers) prepare(ctx context.Context, submissions int) ([][]byte, error) {
	raw := make([][]byte, submissions)
	for i := range raw {
		s := registry.Submission{Realm: identity.Development, Submitter: publishName}
		for range publishBatch {
			entry, err := madeEntry(p.next).Encode()
			if err != nil {
				return nil, err
			}
			s.Entries = append(s.Entries, entry)
			p.next++
		}
		var err error
		if raw[i], err = registry.SignSubmission(ctx, p.key, s); err != nil {
			return nil, err
		}
	}
	return raw, p.level(ctx)
}

// publish submits, by so many SPPs at once, and gives how many entries were acknowledged a second.
func (p *publishers) publish(ctx context.Context, spps int, raw [][]byte) (float64, error) {
	clients := make([]*sequencer.Client, spps)
	for i := range clients {
		transport := &http.Transport{TLSClientConfig: p.tls.Clone(), ForceAttemptHTTP2: true}
		defer transport.CloseIdleConnections()
		clients[i] = sequencer.NewClient(&http.Client{Transport: transport}, "https://"+p.Address("sequencer"))
	}
	var next atomic.Int64
	group, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	for _, c := range clients {
		group.Go(func() error {
			for i := next.Add(1) - 1; i < int64(len(raw)); i = next.Add(1) - 1 {
				acks, err := c.Submit(ctx, raw[i])
				if err != nil {
					return err
				}
				for _, a := range acks {
					if a.Err != nil {
						return a.Err
					}
				}
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return 0, err
	}
	return float64(len(raw)*publishBatch) / time.Since(begin).Seconds(), nil
}

// batches tells how many transactions the sequencer made, and for how many entries.
func (p *publishers) batches(ctx context.Context) (batches, entries float64, err error) {
	const name = "devicekeys_sequencer_batch_entries"
	if batches, err = p.Metric(ctx, "sequencer", name+"_count"); err != nil {
		return 0, 0, err
	}
	if batches == 0 {
		return 0, 0, errors.New("the sequencer says that it made no transaction")
	}
	entries, err = p.Metric(ctx, "sequencer", name+"_sum")
	return batches, entries, err
}
