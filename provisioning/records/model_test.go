package records_test

import (
	"context"
	"database/sql"
	"errors"
	"flag"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// The model: what the records should hold of a few chips and identities.
const chipsOfModel, identitiesOfModel = 5, 12

type modelGeneration struct {
	State, Held records.State
	Aside       bool
	Published   bool
	Identity    int
}

func (g modelGeneration) was() records.State {
	if g.State == records.Quarantined {
		return g.Held
	}
	return g.State
}

func (g modelGeneration) active() bool { return g.was().OnLine() || g.was().InField() }

type modelUse struct {
	State   records.UseState
	Chip    int // -1: nobody
	Planned int // the chip it is planned for; -1: none
}

type modelPlan struct {
	From, To, Identity int
	Taken, Clear       bool
}

type modelNotice struct {
	Chip, Generation int
	Published, Aside bool
}

type modelState struct {
	Chips     [chipsOfModel][]modelGeneration // by generation, from 1
	Uses      map[int]modelUse
	Plans     []modelPlan
	Notices   []modelNotice
	Contested [chipsOfModel]bool
}

// life runs the store and the model side by side.
type life struct {
	*modelState
	t     *testing.T
	super *sql.DB
	s     *records.Store
	round int
}

func (l *life) number(chip int) int                  { return l.round*100 + chip }
func (l *life) record(chip int) identity.RecordID    { return chipOf(l.t, l.number(chip)).RecordID() }
func (l *life) imei(n int) identity.Identity         { return imei(l.t, l.number(n)) }
func (l *life) sequence(chip, g int) int64           { return int64(l.number(chip)*100 + g) }
func chipOf(t testing.TB, n int) (c identity.ChipID) { return chip(t, n) }
func has[T any](all []T, what func(T) bool) bool     { return slices.ContainsFunc(all, what) }
func generationNumber(g int) identity.Generation     { return identity.Generation(g) }
func (l *life) generation(chip, g int) *modelGeneration {
	if g < 1 || g > len(l.Chips[chip]) {
		return nil
	}
	return &l.Chips[chip][g-1]
}

// device gives what steps are called with.
func (l *life) device(chip, g, id int) records.Device {
	d := device(l.t, l.number(chip), generationNumber(g))
	d.Identity = l.imei(id)
	return d
}

// want holds an answer against the model's.
func want(rt *rapid.T, act string, err, wanted error) {
	rt.Helper()
	if !errors.Is(err, wanted) || wanted == records.ErrConflict && errors.Is(err, records.ErrOutOfUse) {
		rt.Fatalf("%s: %v, want %v", act, err, wanted)
	}
}

// reserve is Reserve with the next generation, or another.
func (l *life) reserve(rt *rapid.T, chip, g, id int) {
	d := l.device(chip, g, id)
	wanted := l.reserved(chip, g, id)
	want(rt, fmt.Sprintf("reserve chip %d, generation %d, identity %d", chip, g, id), l.s.Reserve(rt.Context(), d, event(d)), wanted)
}

func (l *life) reserved(chip, g, id int) error {
	all := l.Chips[chip]
	if have := l.generation(chip, g); have != nil {
		if have.Identity == id {
			return nil // the same call
		}
		return records.ErrExists
	}
	switch {
	case has(all, func(r modelGeneration) bool { return r.State == records.Quarantined || r.State == records.Scrapped }), l.Contested[chip]:
		return records.ErrOutOfUse
	case g != len(all)+1:
		return records.ErrConflict
	}
	use, known := l.Uses[id]
	others := func() bool {
		for n, u := range l.Uses {
			if n != id && (u.State == records.UseBound && u.Chip == chip || u.Planned == chip) {
				return true
			}
		}
		return false
	}
	switch {
	case !known && others():
		return records.ErrChipActive
	case !known, use.State == records.UseBound && use.Chip == chip:
	case use.Planned == chip:
		if i := l.open(chip); !l.clear(l.Plans[i].From) {
			return records.ErrConflict
		}
	default:
		return records.ErrIdentityUsed
	}
	if has(all, func(r modelGeneration) bool { return r.was().OnLine() }) {
		return records.ErrChipActive
	}
	if use.Planned == chip && known {
		l.Plans[l.open(chip)].Taken = true
	}
	l.Uses[id] = modelUse{records.UseBound, chip, -1}
	l.Chips[chip] = append(all, modelGeneration{State: records.Reserved, Identity: id})
	return nil
}

// open gives the plan that waits for a chip, or -1.
func (l *life) open(chip int) int {
	return slices.IndexFunc(l.Plans, func(p modelPlan) bool { return p.To == chip && !p.Taken })
}

// clear tells whether no notice of a chip waits.
func (l *life) clear(chip int) bool {
	return !has(l.Notices, func(n modelNotice) bool { return n.Chip == chip && !n.Published })
}

// step runs one step of the assembly.
func (l *life) step(rt *rapid.T, name string, chip, g int) {
	var err, wanted error
	ctx, record, n := rt.Context(), l.record(chip), generationNumber(g)
	have := l.generation(chip, g)
	d := packaged(l.device(chip, g, 0), 1)
	move := func(from, to records.State, done ...records.State) {
		switch {
		case have == nil:
			wanted = records.ErrNotFound
		case have.State == from:
			have.State = to
		case !slices.Contains(append(done, to), have.State):
			wanted = records.ErrConflict
		}
	}
	switch name {
	case "package":
		err = l.s.Packaged(ctx, d)
		move(records.Reserved, records.Packaged)
	case "confirm":
		_, err = l.s.Confirmed(ctx, record, n, d.Point, []byte("backup"), make([]byte, 32), [32]byte{1})
		move(records.Packaged, records.Confirmed, records.Restored, records.Published, records.Shipped, records.Superseded)
	case "confirm another transfer":
		_, err = l.s.Confirmed(ctx, record, n, packaged(d, 2).Point, []byte("another"), make([]byte, 32), [32]byte{1})
		if wanted = records.ErrConflict; have == nil {
			wanted = records.ErrNotFound
		}
	case "restore":
		err = l.s.Restored(ctx, record, n, make([]byte, 32), []byte("entry"), nil)
		move(records.Confirmed, records.Restored, records.Published, records.Shipped, records.Superseded)
	case "publish":
		err = l.s.Published(ctx, record, n, l.sequence(chip, g))
		switch {
		case have == nil:
			wanted = records.ErrNotFound
		case have.was() == records.Restored:
			for i := range l.Chips[chip][:g-1] {
				if r := &l.Chips[chip][i]; r.was().InField() {
					r.State, r.Held = records.Superseded, ""
				}
			}
			if have.Published, have.Aside = true, false; have.State == records.Quarantined {
				have.Held = records.Published
			} else {
				have.State = records.Published
			}
		case !have.Published:
			wanted = records.ErrConflict
		}
	case "ship":
		err = l.s.Shipped(ctx, record, n)
		move(records.Published, records.Shipped)
	case "set aside":
		err = l.s.SetAside(ctx, record, n, 0, "refused")
		switch {
		case have == nil:
			wanted = records.ErrNotFound
		case have.was() == records.Restored:
			have.Aside = true
		default:
			wanted = records.ErrConflict
		}
	case "put back":
		err = l.s.PutBack(ctx, record, n, 0, ann)
		switch {
		case have == nil:
			wanted = records.ErrNotFound
		case have.State == records.Restored:
			have.Aside = false
		case !have.State.Ever():
			wanted = records.ErrConflict
		}
	}
	want(rt, fmt.Sprintf("%s chip %d, generation %d", name, chip, g), err, wanted)
}

// natural is the way down the line.
var natural = map[records.State]string{records.Reserved: "package", records.Packaged: "confirm", records.Confirmed: "restore",
	records.Restored: "publish", records.Published: "ship"}

func (l *life) burned(id int) error {
	use, known := l.Uses[id]
	switch {
	case !known:
		l.Uses[id] = modelUse{records.UseBurned, -1, -1}
		return nil
	case use.State == records.UseBurned:
		return nil
	case use.State == records.UseReleased:
		return records.ErrConflict
	}
	var unfinished *modelGeneration
	for i := range l.Chips[use.Chip] {
		g := &l.Chips[use.Chip][i]
		switch {
		case g.Identity != id || g.State == records.Burned:
		case g.State == records.Reserved || g.State == records.Packaged || g.State == records.Confirmed || g.State == records.Restored && g.Aside:
			unfinished = g
		default:
			return records.ErrConflict
		}
	}
	unfinished.State = records.Burned
	l.Uses[id] = modelUse{records.UseBurned, use.Chip, -1}
	return nil
}

func (l *life) abandoned(chip, g int, aside bool) error {
	have := l.generation(chip, g)
	if have == nil {
		return records.ErrNotFound
	}
	earlier := l.Chips[chip][:g-1]
	switch {
	case !has(earlier, func(r modelGeneration) bool { return r.Published }):
		return records.ErrConflict
	case have.State == records.Burned:
		return nil
	case !has(earlier, func(r modelGeneration) bool { return r.State.InField() }):
		return records.ErrConflict
	case have.State == records.Reserved, have.State == records.Packaged, have.State == records.Confirmed,
		have.State == records.Restored && have.Aside && aside:
		have.State = records.Burned
		return nil
	}
	return records.ErrConflict
}

// toScrap gives the generation that a scrap is for.
func (l *life) toScrap(chip int) (g int, published bool) {
	for g := len(l.Chips[chip]); g > 0; g-- {
		if l.Chips[chip][g-1].Published {
			return g, true
		}
	}
	return len(l.Chips[chip]), false
}

func (l *life) scrapped(chip, g int) error {
	all := l.Chips[chip]
	last, published := l.toScrap(chip)
	switch {
	case len(all) == 0:
		return records.ErrNotFound
	case g != last:
		return records.ErrConflict
	case all[len(all)-1].State == records.Scrapped:
		return nil
	case has(all, func(r modelGeneration) bool { return r.was() == records.Restored && !r.Aside }), l.open(chip) >= 0:
		return records.ErrConflict
	}
	for i := range all {
		if all[i].active() || i == len(all)-1 {
			all[i].State, all[i].Held = records.Scrapped, ""
		}
	}
	for id, u := range l.Uses {
		if u.State == records.UseBound && u.Chip == chip {
			l.Uses[id] = modelUse{records.UseReleased, chip, -1}
		}
	}
	if published {
		l.Notices = append(l.Notices, modelNotice{Chip: chip, Generation: g})
	}
	return nil
}

// scrap is Scrap with the generation that it takes, or one beside it.
func (l *life) scrap(rt *rapid.T, chip, off int) {
	g, published := l.toScrap(chip)
	var entry []byte
	if published {
		entry = []byte("scrap entry")
	}
	g = max(g+off, 1)
	want(rt, "scrap", l.s.Scrap(rt.Context(), l.record(chip), generationNumber(g), entry, ann), l.scrapped(chip, g))
}

func (l *life) plan(rt *rapid.T, from, to int) {
	wanted := l.planned(from, to)
	_, err := l.s.Plan(rt.Context(), l.record(from), l.record(to), ann)
	want(rt, fmt.Sprintf("swap %d to %d", from, to), err, wanted)
}

// noticeOf gives the place of a chip's notice, or -1.
func (l *life) noticeOf(chip int) int {
	return slices.IndexFunc(l.Notices, func(n modelNotice) bool { return n.Chip == chip })
}

// notice is the registry's acknowledgement of a chip's notice.
func (l *life) notice(rt *rapid.T, chip int) {
	g, wanted := 1, records.ErrNotFound
	if i := l.noticeOf(chip); i >= 0 {
		g, wanted, l.Notices[i].Published = l.Notices[i].Generation, nil, true
	}
	want(rt, "notice", l.s.Noticed(rt.Context(), l.record(chip), generationNumber(g), scrapType, l.sequence(chip, g)), wanted)
}

func (l *life) quarantine(chip int) {
	for i := range l.Chips[chip] {
		if g := &l.Chips[chip][i]; g.State.OnLine() || g.State.InField() {
			g.State, g.Held = records.Quarantined, g.State
		}
	}
}

func (l *life) quarantined(chip int) error {
	switch all := l.Chips[chip]; {
	case len(all) == 0:
		return records.ErrNotFound
	case !has(all, modelGeneration.active):
		return records.ErrConflict
	}
	l.quarantine(chip)
	return nil
}

// quarantinedOnLine tells whether the record is held.
func (l *life) quarantinedOnLine(chip int) bool {
	all := l.Chips[chip]
	if !has(all, modelGeneration.active) || has(all, func(g modelGeneration) bool { return g.was().InField() }) {
		return false
	}
	l.quarantine(chip)
	return true
}

func (l *life) released(chip int) error {
	all := l.Chips[chip]
	if !l.Contested[chip] {
		switch {
		case len(all) == 0:
			return records.ErrNotFound
		case !has(all, modelGeneration.active):
			return records.ErrConflict
		}
	}
	l.Contested[chip] = false
	for i := range all {
		if all[i].State == records.Quarantined {
			all[i].State, all[i].Held = all[i].Held, ""
		}
	}
	return nil
}

func (l *life) returned(chip int) error {
	all := l.Chips[chip]
	if len(all) == 0 {
		return records.ErrNotFound
	}
	for i := range all {
		if all[i].State.InField() {
			all[i].State = records.Published
			return nil
		}
	}
	return records.ErrConflict
}

func (l *life) planned(from, to int) error {
	if has(l.Plans, func(p modelPlan) bool { return p.From == from && p.To == to }) {
		return nil
	}
	old, chip := l.Chips[from], l.Chips[to]
	switch {
	case len(old) == 0:
		return records.ErrNotFound
	case old[len(old)-1].State != records.Scrapped:
		return records.ErrConflict
	case has(chip, modelGeneration.active):
		return records.ErrChipActive
	case len(chip) > 0 && chip[len(chip)-1].State == records.Scrapped, l.Contested[to]:
		return records.ErrOutOfUse
	}
	for id, u := range l.Uses {
		if u.State == records.UseReleased && u.Chip == from && u.Planned < 0 {
			if l.open(to) >= 0 {
				return records.ErrChipActive
			}
			u.Planned = to
			l.Uses[id] = u
			l.Plans = append(l.Plans, modelPlan{From: from, To: to, Identity: id})
			return nil
		}
	}
	return records.ErrConflict
}

// read gives what the database has, in the model's terms.
func (l *life) read(rt *rapid.T) modelState {
	ctx := rt.Context()
	have := modelState{Uses: map[int]modelUse{}}
	chips, identities := map[identity.RecordID]int{}, map[identity.Identity]int{}
	check := func(err error) {
		rt.Helper()
		if err != nil {
			rt.Fatal(err)
		}
	}
	for n := range identitiesOfModel {
		identities[l.imei(n)] = n
	}
	for n := range chipsOfModel {
		chips[l.record(n)] = n
	}
	check(l.s.Each(ctx, func(d records.Device) error {
		if n, ours := chips[d.Record]; ours {
			have.Chips[n] = append(have.Chips[n], modelGeneration{
				State: d.State, Held: d.Held, Aside: d.SetAside != "" && d.State != records.Burned && d.State != records.Scrapped,
				Published: !d.PublishedAt.IsZero(), Identity: identities[d.Identity]})
		}
		return nil
	}))
	rows, err := l.super.QueryContext(ctx, `select record_id from chip where contested is not null`)
	check(err)
	defer rows.Close()
	for rows.Next() {
		var record []byte
		check(rows.Scan(&record))
		if n, ours := chips[identity.RecordID(record)]; ours {
			have.Contested[n] = true
		}
	}
	check(rows.Err())
	check(l.s.EachUse(ctx, func(u records.Use) error {
		if n, ours := identities[u.Identity]; ours {
			use := modelUse{u.State, -1, -1}
			if u.Record != (identity.RecordID{}) {
				use.Chip = chips[u.Record]
			}
			have.Uses[n] = use
		}
		return nil
	}))
	check(l.s.EachPlan(ctx, func(p records.Plan) error {
		if to, ours := chips[p.Record]; ours {
			have.Plans = append(have.Plans, modelPlan{chips[p.From], to, identities[p.Identity], p.Taken, p.Clear})
			if waits, err := l.s.Planned(ctx, p.Record); !p.Taken && (err != nil || waits != p) {
				rt.Fatalf("Planned = %+v, %v, want %+v", waits, err, p)
			}
		}
		return nil
	}))
	for _, p := range have.Plans {
		if u := have.Uses[p.Identity]; !p.Taken {
			u.Planned = p.To
			have.Uses[p.Identity] = u
		}
	}
	check(l.s.EachNotice(ctx, func(n records.Notice) error {
		if chip, ours := chips[n.Record]; ours {
			have.Notices = append(have.Notices, modelNotice{chip, int(n.Generation), n.Sequence >= 0, n.SetAside != ""})
		}
		return nil
	}))
	return have
}

// fataler is a test, or a check of rapid's.
type fataler interface {
	Helper()
	Fatal(...any)
	Fatalf(string, ...any)
}

// invariants are read from the tables alone.
func (l *life) invariants(t fataler, ctx context.Context) {
	t.Helper()
	const active = `coalesce(held, state) in ('reserved', 'packaged', 'confirmed', 'restored', 'published', 'shipped')`
	var queries []string
	for name, query := range map[string]string{
		"an identity active in two records": `select count(*) from (select from device where ` + active + `
			group by identity_type, identity_value having count(distinct record_id) > 1) x`,
		"a chip with two active identities": `select count(*) from (select from device where ` + active + `
			group by record_id having count(distinct identity_value) > 1) x`,
		"an active device whose identity is not bound to it": `select count(*) from device d where ` + active + ` and not exists (
			select from identity_use u where u.type = d.identity_type and u.value = d.identity_value and u.record_id = d.record_id and u.state = 'bound')`,
		"a bound identity without an active device": `select count(*) from identity_use u where state = 'bound' and not exists (
			select from device d where d.record_id = u.record_id and d.identity_type = u.type and d.identity_value = u.value and ` + active + `)`,
		"a plan that waits without its identity": `select count(*) from plan p where taken is null and dropped is null and not exists (
			select from identity_use u where u.type = p.identity_type and u.value = p.identity_value and u.state = 'released' and u.planned = p.record_id)`,
		"an identity planned without a plan": `select count(*) from identity_use u where planned is not null and not exists (
			select from plan p where p.record_id = u.planned and p.taken is null and p.dropped is null)`,
		"a record half quarantined": `select count(*) from (select from device where ` + active + `
			group by record_id having count(distinct state = 'quarantined') > 1) x`,
		"a scrapped record with something active": `select count(*) from device d where state = 'scrapped' and exists (
			select from device o where o.record_id = d.record_id and coalesce(o.held, o.state) in ('reserved', 'packaged', 'confirmed', 'restored', 'published', 'shipped'))`,
		"a scrapped record that was published, without a notice": `select count(*) from device d where state = 'scrapped' and published is not null
			and not exists (select from notice n where n.record_id = d.record_id and n.type = 3)`,
		"an order without its audit entry": `select count(*) from operator_order o where not exists (select from audit_entry e where e.seq = o.entry)`,
	} {
		queries = append(queries, fmt.Sprintf("select '%s' where (%s) > 0", name, query))
	}
	var broken []string
	rows, err := l.super.QueryContext(ctx, strings.Join(queries, " union all "))
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	for rows.Next() {
		var name string
		if err := rows.Scan(&name); err != nil {
			t.Fatal(err)
		}
		broken = append(broken, name)
	}
	if err := rows.Err(); err != nil || broken != nil {
		t.Fatalf("%v: %q", err, broken)
	}
}

// TestLife takes a few chips and identities through random acts and steps, in any
// order, next to the model: each is answered as the model says, and after each
// one the tables hold what the model holds, and the invariants.
func TestLife(t *testing.T) {
	t.Parallel()
	r := recordstest.New(t)
	// Each check is a history of some sixty acts on a real database: a few do, and
	// -rapid.checks and -rapid.steps ask for more.
	for name, value := range map[string]string{"rapid.checks": "12", "rapid.steps": "60"} {
		if f := flag.Lookup(name); f.Value.String() == f.DefValue {
			if err := flag.Set(name, value); err != nil {
				t.Fatal(err)
			}
		}
	}
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		round++
		l := &life{&modelState{Uses: map[int]modelUse{}}, t, r.AsSuperuser(), r.Store, round}
		list := keypackage.DeliveryList{Realm: identity.Development, Maker: "maker", Lot: fmt.Sprint(round)}
		for n := range chipsOfModel {
			list.Chips = append(list.Chips, keypackage.DeliveredChip{Record: l.record(n), Attestation: point(t)})
		}
		if _, _, err := r.Store.ImportChips(rt.Context(), list, point(t)); err != nil {
			rt.Fatal(err)
		}
		// Mostly chips of which there is something to do something with.
		oneOf := func(name string, good func(int) bool) int {
			var chips []int
			for n := range chipsOfModel {
				if good(n) {
					chips = append(chips, n, n, n, n)
				}
			}
			for n := range chipsOfModel {
				chips = append(chips, n)
			}
			return rapid.SampledFrom(chips).Draw(rt, name)
		}
		known := func(n int) bool { return len(l.Chips[n]) > 0 }
		out := func(n int) bool { return known(n) && l.Chips[n][len(l.Chips[n])-1].State == records.Scrapped }
		free := func(n int) bool { return !out(n) && !has(l.Chips[n], modelGeneration.active) }
		aChip := func(name string) int { return oneOf(name, func(n int) bool { return known(n) && !out(n) }) }
		seldom := func() bool { return rapid.IntRange(0, 2).Draw(rt, "seldom") > 0 }
		anIdentity := func() int { return rapid.IntRange(0, identitiesOfModel-1).Draw(rt, "identity") }
		// Mostly the newest generation.
		aGeneration := func(chip int) int {
			return max(1, len(l.Chips[chip])-rapid.SampledFrom([]int{0, 0, 0, 1, -1}).Draw(rt, "before the newest"))
		}
		acts := map[string]func(*rapid.T){
			"": func(rt *rapid.T) {
				for i, p := range l.Plans {
					l.Plans[i].Clear = l.clear(p.From)
				}
				wanted := *l.modelState
				for i, all := range wanted.Chips {
					wanted.Chips[i] = slices.Clone(all)
					for j := range wanted.Chips[i] {
						if g := &wanted.Chips[i][j]; g.State == records.Burned || g.State == records.Scrapped {
							g.Aside = false // why it was, stays in the row
						}
					}
				}
				have := l.read(rt)
				byRecord := func(a, b modelNotice) int { return a.Chip - b.Chip }
				slices.SortFunc(have.Notices, byRecord)
				slices.SortFunc(wanted.Notices, byRecord)
				if empty := cmpopts.EquateEmpty(); !cmp.Equal(wanted, have, empty) {
					rt.Fatalf("the tables differ from the model (-model +tables):\n%s", cmp.Diff(wanted, have, empty))
				}
				l.invariants(rt, rt.Context())
			},
			"reserve": func(rt *rapid.T) {
				chip := oneOf("chip", func(n int) bool { return !out(n) })
				g := len(l.Chips[chip]) + rapid.SampledFrom([]int{1, 1, 1, 0, 2}).Draw(rt, "after the newest")
				l.reserve(rt, chip, max(g, 1), anIdentity())
			},
			"advance": func(rt *rapid.T) { // as a line does, several steps
				chip := oneOf("chip", func(n int) bool { return !out(n) })
				for range rapid.IntRange(1, 6).Draw(rt, "steps") {
					g := len(l.Chips[chip])
					if g == 0 || l.Chips[chip][g-1].State == records.Burned {
						id := anIdentity()
						for n, u := range l.Uses {
							if u.State == records.UseBound && u.Chip == chip || u.Planned == chip {
								id = n
							}
						}
						l.reserve(rt, chip, g+1, id)
					} else if next := natural[l.Chips[chip][g-1].State]; next != "" {
						l.step(rt, next, chip, g)
					}
				}
			},
			"next generation": func(rt *rapid.T) {
				chip := oneOf("chip", func(n int) bool { return has(l.Chips[n], func(g modelGeneration) bool { return g.State.InField() }) })
				if g := len(l.Chips[chip]); g > 0 {
					l.reserve(rt, chip, g+1, l.Chips[chip][g-1].Identity)
					for range rapid.IntRange(0, 4).Draw(rt, "steps") {
						if next := natural[l.Chips[chip][len(l.Chips[chip])-1].State]; next != "" {
							l.step(rt, next, chip, len(l.Chips[chip]))
						}
					}
				}
			},
			"burn": func(rt *rapid.T) {
				if seldom() {
					return
				}
				id := anIdentity()
				wanted := l.burned(id)
				if rapid.Bool().Draw(rt, "by an operator") {
					want(rt, "burn by an operator", l.s.BurnedBy(rt.Context(), l.imei(id), 7, ann), wanted)
				} else {
					want(rt, "burn", l.s.Burned(rt.Context(), l.imei(id), 7, "test"), wanted)
				}
			},
			"burn unclaimed": func(rt *rapid.T) {
				if seldom() {
					return
				}
				id := anIdentity()
				if _, known := l.Uses[id]; !known {
					l.Uses[id] = modelUse{records.UseBurned, -1, -1}
				}
				burned, err := l.s.BurnUnclaimed(rt.Context(), l.imei(id), 7, "test")
				if err != nil || burned != (l.Uses[id].State == records.UseBurned) {
					rt.Fatalf("BurnUnclaimed = %v, %v", burned, err)
				}
			},
			"abandon": func(rt *rapid.T) {
				chip := oneOf("chip", func(n int) bool { return len(l.Chips[n]) > 1 && !out(n) })
				g := aGeneration(chip)
				if rapid.Bool().Draw(rt, "by the SPP") {
					want(rt, "abandon stale", l.s.AbandonStale(rt.Context(), l.record(chip), generationNumber(g), "test"), l.abandoned(chip, g, false))
					return
				}
				want(rt, "abandon", l.s.Abandon(rt.Context(), l.record(chip), generationNumber(g), ann), l.abandoned(chip, g, true))
			},
			"scrap": func(rt *rapid.T) {
				if !seldom() {
					l.scrap(rt, aChip("chip"), rapid.SampledFrom([]int{0, 0, 0, 1}).Draw(rt, "wrong generation"))
				}
			},
			"scrap and swap": func(rt *rapid.T) {
				if seldom() {
					return
				}
				from, to := aChip("from"), oneOf("to", free)
				l.scrap(rt, from, 0)
				if from == to {
					return
				}
				l.plan(rt, from, to)
				if rapid.Bool().Draw(rt, "the registry knows") && !l.clear(from) {
					l.notice(rt, from)
				}
				if i := l.open(to); i >= 0 && rapid.Bool().Draw(rt, "it begins") {
					l.reserve(rt, to, len(l.Chips[to])+1, l.Plans[i].Identity)
				}
			},
			"quarantine": func(rt *rapid.T) {
				if seldom() {
					return
				}
				chip := aChip("chip")
				want(rt, "quarantine", l.s.Quarantine(rt.Context(), l.record(chip), ann), l.quarantined(chip))
			},
			"quarantine on line": func(rt *rapid.T) {
				if seldom() {
					return
				}
				chip := aChip("chip")
				wanted := l.quarantinedOnLine(chip)
				if held, err := l.s.QuarantineOnLine(rt.Context(), l.record(chip), "test"); err != nil || held != wanted {
					rt.Fatalf("QuarantineOnLine = %v, %v, want %v", held, err, wanted)
				}
			},
			"release": func(rt *rapid.T) {
				chip := oneOf("chip", func(n int) bool {
					return l.Contested[n] || has(l.Chips[n], func(g modelGeneration) bool { return g.State == records.Quarantined })
				})
				want(rt, "release", l.s.Release(rt.Context(), l.record(chip), ann), l.released(chip))
			},
			"return": func(rt *rapid.T) {
				chip := oneOf("chip", func(n int) bool {
					return has(l.Chips[n], func(g modelGeneration) bool { return g.State == records.Shipped })
				})
				want(rt, "return", l.s.Return(rt.Context(), l.record(chip), ann), l.returned(chip))
			},
			"contest": func(rt *rapid.T) {
				if seldom() {
					return
				}
				chip := aChip("chip")
				want(rt, "contest", l.s.Contest(rt.Context(), l.record(chip), "test", nil), nil)
				if !l.Contested[chip] {
					l.Contested[chip] = true
					l.quarantinedOnLine(chip)
				}
			},
			"swap": func(rt *rapid.T) {
				from, to := oneOf("from", out), oneOf("to", free)
				if from != to {
					l.plan(rt, from, to)
				}
			},
			"unplan": func(rt *rapid.T) {
				chip := oneOf("chip", func(n int) bool { return l.open(n) >= 0 })
				if l.open(chip) >= 0 && seldom() {
					return
				}
				var wanted error
				if i := l.open(chip); i < 0 {
					wanted = records.ErrNotFound
				} else {
					u := l.Uses[l.Plans[i].Identity]
					u.Planned = -1
					l.Uses[l.Plans[i].Identity] = u
					l.Plans = slices.Delete(l.Plans, i, i+1)
				}
				want(rt, "unplan", l.s.Unplan(rt.Context(), l.record(chip), ann), wanted)
			},
			"notice": func(rt *rapid.T) {
				chip := oneOf("chip", func(n int) bool { return !l.clear(n) })
				if i := l.noticeOf(chip); i >= 0 && !l.Notices[i].Published && rapid.Bool().Draw(rt, "set aside first") {
					want(rt, "set aside", l.s.SetAside(rt.Context(), l.record(chip), generationNumber(l.Notices[i].Generation), scrapType, "refused"), nil)
				}
				l.notice(rt, chip)
			},
		}
		acts["advance another"] = acts["advance"]
		acts["step"] = func(rt *rapid.T) {
			chip := aChip("chip")
			name := rapid.SampledFrom([]string{"package", "confirm", "confirm another transfer", "restore", "publish", "ship", "put back"}).Draw(rt, "step")
			l.step(rt, name, chip, aGeneration(chip))
		}
		acts["set aside"] = func(rt *rapid.T) {
			chip := oneOf("chip", func(n int) bool {
				return has(l.Chips[n], func(g modelGeneration) bool { return g.State == records.Restored })
			})
			l.step(rt, "set aside", chip, max(1, len(l.Chips[chip])))
		}
		rt.Repeat(acts)
	})
}
