package ha

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// maxAnswer bounds an answer of Patroni's or etcd's API: a few hundred bytes for a node.
const maxAnswer = 1 << 20

// Roles of a member.
const (
	RoleLeader  = "leader"
	RoleSync    = "sync_standby" // has every acknowledged commit, and alone may take over
	RoleReplica = "replica"
)

// Member is a node as etcd has it, where a dead one stands until its lease is over.
type Member struct {
	Name  string `json:"name"`
	Role  string `json:"role"`
	State string `json:"state"`
}

// get asks an API. into may be nil.
func (c *Cluster) get(ctx context.Context, url string, into any) error {
	return c.call(ctx, http.MethodGet, url, nil, into)
}

func (c *Cluster) call(ctx context.Context, method, url string, body []byte, into any) error {
	r, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	res, err := c.http.Do(r)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxAnswer))
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		return statusError(res, answer)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(answer, into)
}

// Members asks any node that answers how the cluster is.
func (c *Cluster) Members(ctx context.Context) ([]Member, error) {
	var errs []error
	for _, n := range c.nodes {
		var r struct {
			Members []Member `json:"members"`
		}
		err := c.get(ctx, url(n.api)+"/cluster", &r)
		if err == nil {
			return r.Members, nil
		}
		errs = append(errs, fmt.Errorf("%s: %w", n.name, err))
	}
	return nil, fmt.Errorf("ask the cluster: %w", errors.Join(errs...))
}

// awaitBound bounds the wait for the cluster to be whole again: a lease, and a base backup where the
// rewind fails.
const awaitBound = 2 * time.Minute

// AwaitLeader waits until a node leads whose name isn't not, and takes writes. It gives its name.
func (c *Cluster) AwaitLeader(ctx context.Context, not string) (name string, err error) {
	err = c.await(ctx, "a leader", func(all []Member) bool {
		for _, m := range all {
			if n, err := c.node(m.Name); err == nil && m.Role == RoleLeader && m.Name != not && c.get(ctx, url(n.api)+"/primary", nil) == nil {
				name = m.Name
				return true
			}
		}
		return false
	})
	return name, err
}

// AwaitWhole waits until all nodes are there: a leader that takes writes, and the others streaming from it, one
// of them synchronously.
func (c *Cluster) AwaitWhole(ctx context.Context) error {
	return c.await(ctx, "the cluster to be whole", func(all []Member) bool { return c.whole(ctx, all) })
}

func (c *Cluster) whole(ctx context.Context, all []Member) bool {
	roles := map[string]int{}
	var leader *node
	for _, m := range all {
		if roles[m.Role]++; m.Role == RoleLeader {
			leader, _ = c.node(m.Name)
		}
	}
	if leader == nil || roles[RoleSync] != 1 || roles[RoleReplica] != Nodes-2 {
		return false
	}
	// What the leader's Postgres says of its standbys is so; the rest may be of yesterday.
	var status struct {
		Replication []struct {
			State string `json:"state"`
			Sync  string `json:"sync_state"`
		} `json:"replication"`
	}
	if c.get(ctx, url(leader.api)+"/primary", &status) != nil {
		return false
	}
	streaming, synchronous := 0, 0
	for _, r := range status.Replication {
		if r.State == "streaming" {
			if streaming++; r.Sync == "sync" {
				synchronous++
			}
		}
	}
	return streaming == Nodes-1 && synchronous == 1
}

func (c *Cluster) await(ctx context.Context, what string, is func([]Member) bool) error {
	ctx, cancel := context.WithTimeout(ctx, awaitBound)
	defer cancel()
	for {
		all, err := c.Members(ctx)
		if err == nil && is(all) {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w: it is %+v (%v); see %s", what, context.Cause(ctx), all, err, c.Log(c.nodes[0].name))
		case <-time.After(poll):
		}
	}
}

// Switchover hands the lead over in good order, to the synchronous standby. It returns when the
// new leader leads, and gives its name.
func (c *Cluster) Switchover(ctx context.Context) (name string, err error) {
	all, err := c.Members(ctx)
	if err != nil {
		return "", err
	}
	var from, to string
	for _, m := range all {
		switch m.Role {
		case RoleLeader:
			from = m.Name
		case RoleSync:
			to = m.Name
		}
	}
	leader, err := c.node(from)
	if err != nil || to == "" {
		return "", fmt.Errorf("switch over: it takes a leader and a synchronous standby, the cluster is %+v", all)
	}
	body, err := json.Marshal(map[string]string{"leader": from, "candidate": to})
	if err != nil {
		return "", err
	}
	// Patroni answers when it is done, or gives up after some seconds and goes on: what counts is what is then.
	callErr := c.call(ctx, http.MethodPost, url(leader.api)+"/switchover", body, nil)
	if errors.Is(callErr, errRefused) {
		return "", fmt.Errorf("switch over from %s to %s: %w", from, to, callErr)
	}
	if name, err = c.AwaitLeader(ctx, from); err != nil {
		return "", fmt.Errorf("switch over from %s to %s: %w", from, to, errors.Join(err, callErr))
	}
	return name, nil
}

// AwaitStandby waits until a node is the synchronous standby whose name isn't not, and gives its name.
func (c *Cluster) AwaitStandby(ctx context.Context, not string) (name string, err error) {
	err = c.await(ctx, "a synchronous standby", func(all []Member) bool {
		for _, m := range all {
			if m.Role == RoleSync && m.Name != not {
				name = m.Name
				return true
			}
		}
		return false
	})
	return name, err
}
