package records

import (
	"context"
	"fmt"
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
	Detail     string // all other facts; cut at 4096 bytes
	At         time.Time
}

// Incident records an incident. It is no transaction with anything else: the
// refusal that it tells of stands without it. Doing it twice tells it twice.
func (s *Store) Incident(ctx context.Context, i Incident) error {
	const maxDetail = 4096
	const query = `insert into incident (kind, record_id, generation, line, station, detail) values ($1, nullif($2, ''::bytea), $3, $4, $5, $6)`
	record := []byte{}
	if i.Record != (identity.RecordID{}) {
		record = i.Record[:]
	}
	if _, err := s.change(ctx, query, i.Kind, record, int64(i.Generation), i.Line, i.Station, cut(i.Detail, maxDetail)); err != nil {
		return fmt.Errorf("record incident %q, record %s: %w", i.Kind, i.Record.Short(), err)
	}
	return nil
}

// Incidents gives the newest incidents, newest first.
func (s *Store) Incidents(ctx context.Context, limit int) ([]Incident, error) {
	rows, err := s.db.QueryContext(ctx, `select id, kind, coalesce(record_id, ''), generation, line, station, detail, at
		from incident order by id desc limit $1`, limit)
	if err != nil {
		return nil, fmt.Errorf("read incidents: %w", err)
	}
	defer rows.Close()
	var all []Incident
	for rows.Next() {
		var i Incident
		var record []byte
		if err := rows.Scan(&i.ID, &i.Kind, &record, &i.Generation, &i.Line, &i.Station, &i.Detail, &i.At); err != nil {
			return nil, fmt.Errorf("read incidents: %w", err)
		}
		copy(i.Record[:], record)
		all = append(all, i)
	}
	if err := rows.Err(); err != nil {
		return nil, fmt.Errorf("read incidents: %w", err)
	}
	return all, nil
}

// cut shortens a text to n bytes at a character's edge.
func cut(s string, n int) string {
	if len(s) <= n {
		return s
	}
	for n > 0 && s[n]&0xc0 == 0x80 {
		n--
	}
	return s[:n]
}
