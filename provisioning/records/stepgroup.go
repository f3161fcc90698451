package records

import (
	"context"
	"errors"

	"github.com/lib/pq"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/identity"
)

// groups are the steps of the line, each of which many devices take at once: those that
// come together share a statement and a commit (database.Group). What is together takes
// only the plain case, a row in the state that the step begins from which nobody else
// has locked; everything else goes alone, by the step's own statement. What a crash before or after leaves, and who goes
// on from there, stands with the step: together or alone, each row changes whole or not at all.
type groups struct {
	reserve   *database.Group[reservation, struct{}]
	packaged  *database.Group[Device, struct{}]
	confirmed *database.Group[confirmation, [32]byte]
	restored  *database.Group[restoration, struct{}]
	shipped   *database.Group[generationID, struct{}]
	revoked   *database.Group[string, revoked]
}

func (s *Store) group() groups {
	return groups{
		reserve:   database.NewGroup(s.reserveTogether),
		packaged:  database.NewGroup(s.packagedTogether),
		confirmed: database.NewGroup(s.confirmedTogether),
		restored:  database.NewGroup(s.restoredTogether),
		shipped:   database.NewGroup(s.shippedTogether),
		revoked:   database.NewGroup(s.revokedTogether),
	}
}

// generationID names a generation of a record.
type generationID struct {
	record identity.RecordID
	g      identity.Generation
}

// confirmation is what Confirmed is called with.
type confirmation struct {
	generationID
	point, backup, confirm []byte
	challenge              [32]byte
}

// restoration is what Restored is called with.
type restoration struct {
	generationID
	proof, entry []byte
}

// target is the part of every statement that finds the rows. Those that somebody has
// locked are left out, so nobody waits, and no two statements wait for each other.
// The arrays stand in queries of their own, lest Postgres plans anew for each length.
const (
	targetBegin = `
with target as (
	select w.* from unnest((select $1::bytea[]), (select $2::bigint[])`
	targetJoin = `
	join device d on d.record_id = w.record_id and d.generation = w.generation and d.state = `
	targetEnd = ` order by d.record_id for update of d skip locked
)
update device d set changed = clock_timestamp(), `
	targetReturn = `
from target t where d.record_id = t.record_id and d.generation = t.generation
returning d.record_id, d.generation`
)

// packagedTogether keeps first packages.
func (s *Store) packagedTogether(ctx context.Context, all []Device) ([]*struct{}, error) {
	const query = targetBegin + `, (select $3::bytea[]), (select $4::bytea[]), (select $5::bytea[]), (select $6::bytea[]), (select $7::bytea[]), (select $8::bytea[]), (select $9::bytea[]))
		w(record_id, generation, hello, point, manifest, claims, certificate, package, x509)` + targetJoin + `'reserved' and d.claims is null` + targetEnd +
		`state = 'packaged', hello = t.hello, point = t.point, manifest = t.manifest, claims = t.claims, certificate = t.certificate,
	package = t.package, x509 = t.x509, packaged = coalesce(d.packaged, clock_timestamp())` + targetReturn
	c := newArrays(len(all), 7)
	for _, d := range all {
		certificates, err := encodeX509(d.X509)
		if err != nil {
			return nil, err
		}
		c.add(generationID{d.Record, d.Generation}, d.Hello, d.Point, d.Manifest, d.Claims, d.Certificate, d.Package, certificates)
	}
	return taken[struct{}](ctx, s, c, query)
}

// confirmedTogether keeps first confirmations.
func (s *Store) confirmedTogether(ctx context.Context, all []confirmation) ([]*[32]byte, error) {
	const query = targetBegin + `, (select $3::bytea[]), (select $4::bytea[]), (select $5::bytea[]), (select $6::bytea[]))
		w(record_id, generation, point, backup, confirm, challenge)` + targetJoin + `'packaged' and d.point = w.point` + targetEnd +
		`state = 'confirmed', backup = t.backup, confirm = t.confirm, challenge = t.challenge` + targetReturn
	c := newArrays(len(all), 4)
	for _, v := range all {
		c.add(v.generationID, v.point, v.backup, v.confirm, v.challenge[:])
	}
	kept, err := taken[[32]byte](ctx, s, c, query)
	if err != nil {
		return nil, err
	}
	for i, v := range all {
		if kept[i] != nil {
			*kept[i] = v.challenge
		}
	}
	return kept, nil
}

// restoredTogether keeps first proofs of restoration.
func (s *Store) restoredTogether(ctx context.Context, all []restoration) ([]*struct{}, error) {
	const query = targetBegin + `, (select $3::bytea[]), (select $4::bytea[])) w(record_id, generation, proof, entry)` + targetJoin + `'confirmed'` + targetEnd +
		`state = 'restored', proof = t.proof, entry = t.entry` + targetReturn
	c := newArrays(len(all), 2)
	for _, v := range all {
		c.add(v.generationID, v.proof, v.entry)
	}
	return taken[struct{}](ctx, s, c, query)
}

// shippedTogether notes shipments.
func (s *Store) shippedTogether(ctx context.Context, all []generationID) ([]*struct{}, error) {
	const query = targetBegin + `) w(record_id, generation)` + targetJoin + `'published'` + targetEnd + `state = 'shipped'` + targetReturn
	c := newArrays(len(all), 0)
	for _, id := range all {
		c.add(id)
	}
	return taken[struct{}](ctx, s, c, query)
}

// revoked is a station's newest revocation, if there is any.
type revoked struct {
	Revocation
	found bool
}

// revokedTogether looks for several stations' revocations. It began after all calls that it
// serves, so what was written before them is seen.
func (s *Store) revokedTogether(ctx context.Context, stations []string) ([]*revoked, error) {
	const query = `select distinct on (station) station, at, operator, reason from revocation where station = any((select $1::text[])::text[]) order by station, at desc`
	found := map[string]Revocation{}
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var r Revocation
		err := scan(&r.Station, &r.At, &r.Operator, &r.Reason)
		found[r.Station] = r
		return err
	}, query, pq.Array(stations))
	if err != nil {
		return nil, err
	}
	all := make([]*revoked, len(stations))
	for i, station := range stations {
		r, ok := found[station]
		all[i] = &revoked{r, ok}
	}
	return all, nil
}

// arrays are the arguments of a statement for several generations, an array for each.
type arrays struct {
	place       map[generationID]int // in the order of the calls
	records     [][]byte
	generations []int64
	values      [][][]byte
}

func newArrays(rows, values int) *arrays {
	return &arrays{make(map[generationID]int, rows), make([][]byte, 0, rows), make([]int64, 0, rows), make([][][]byte, values)}
}

func (c *arrays) add(id generationID, values ...[]byte) {
	c.place[id] = len(c.records)
	c.records, c.generations = append(c.records, id.record[:]), append(c.generations, int64(id.g))
	for i, v := range values {
		c.values[i] = append(c.values[i], v)
	}
}

func (c *arrays) args() []any {
	args := []any{pq.Array(c.records), pq.Array(c.generations)}
	for _, v := range c.values {
		args = append(args, pq.Array(v))
	}
	return args
}

// errTwice says that two calls together are of one generation: each is to find out alone which came first.
var errTwice = errors.New("one generation stands twice in a statement for several")

// taken runs a statement that gives the generations it took.
func taken[R any](ctx context.Context, s *Store, c *arrays, query string) ([]*R, error) {
	if len(c.place) != len(c.records) {
		return nil, errTwice
	}
	all := make([]*R, len(c.records))
	err := s.prepared.Each(ctx, func(scan func(...any) error) error {
		var id generationID
		var record []byte
		if err := scan(&record, &id.g); err != nil {
			return err
		}
		copy(id.record[:], record)
		all[c.place[id]] = new(R)
		return nil
	}, query, c.args()...)
	return all, err
}
