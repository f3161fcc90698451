package records

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// Incident is something that should not happen: a wrong attestation, a confirm
// for another device's package. It is for people: no chip ID, no secret.
type Incident struct {
	ID         int64  // set when read
	Kind       string // a stable code, "wrong-attestation"
	Record     identity.RecordID
	Generation identity.Generation
	Line       string
	Station    string
	Detail     string            // in a sentence; cut at 4096 bytes
	Facts      map[string]string // all facts by name; as many as fit 4096 bytes, each cut at 512
	At         time.Time
}

const (
	// maxDetail and maxFacts bound what an incident says, maxFact one fact, in bytes.
	maxDetail = 4096
	maxFacts  = 4096
	maxFact   = 512

	incidentQuery = `insert into incident (kind, record_id, generation, line, station, detail, facts)
		values ($1, nullif($2, ''::bytea), $3, $4, $5, $6, $7::jsonb)`
)

// encodeFacts gives facts as JSON that the database takes: those that fit, in
// the order of their names, and how many were left out.
func encodeFacts(facts map[string]string) (string, error) {
	const leftOut = "left out"
	kept, size := map[string]string{}, len(leftOut)+32
	for _, name := range slices.Sorted(maps.Keys(facts)) {
		key, value := cut(name, maxFact), cut(facts[name], maxFact)
		pair, err := encodeText(map[string]string{key: value})
		if err != nil {
			return "", err
		}
		if size += len(pair) + 2; size > maxFacts { // the database prints two more blanks
			kept[leftOut] = strconv.Itoa(len(facts) - len(kept))
			break
		}
		kept[key] = value
	}
	return encodeText(kept)
}

// encodeText gives JSON as the database prints it, in which no character but
// those that JSON demands is escaped.
func encodeText(facts map[string]string) (string, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	err := e.Encode(facts)
	return strings.TrimSuffix(b.String(), "\n"), err
}

// Incident records an incident. It is no transaction with anything else: the
// refusal that it tells of stands without it. Doing it twice tells it twice.
func (s *Store) Incident(ctx context.Context, i Incident) error {
	facts, err := encodeFacts(i.Facts)
	if err == nil {
		_, err = s.prepared.Exec(ctx, incidentQuery, i.Kind, bytesOf(i.Record), int64(i.Generation), i.Line, i.Station, cut(i.Detail, maxDetail), facts)
	}
	if err != nil {
		return fmt.Errorf("record incident %q, record %s: %w", i.Kind, i.Record.Short(), err)
	}
	return nil
}

// Incidents gives the newest incidents, newest first.
func (s *Store) Incidents(ctx context.Context, limit int) ([]Incident, error) {
	rows, err := s.db.QueryContext(ctx, `select id, kind, coalesce(record_id, ''), generation, line, station, detail, facts, at
		from incident order by id desc limit $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("read incidents: %w", err)
	}
	defer rows.Close()
	var all []Incident
	for rows.Next() {
		var i Incident
		var record, facts []byte
		if err := rows.Scan(&i.ID, &i.Kind, &record, &i.Generation, &i.Line, &i.Station, &i.Detail, &facts, &i.At); err != nil {
			return nil, fmt.Errorf("read incidents: %w", err)
		}
		if err := json.Unmarshal(facts, &i.Facts); err != nil {
			return nil, fmt.Errorf("read incident %d: its facts: %w", i.ID, err)
		}
		if len(i.Facts) == 0 {
			i.Facts = nil
		}
		copy(i.Record[:], record)
		all = append(all, i)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read incidents: %w", err)
	}
	return all, nil
}

// cut makes a text one that the database takes, and shortens it to n bytes at a
// character's edge.
func cut(s string, n int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\ufffd"), "\x00", "\ufffd")
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}
