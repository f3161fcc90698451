package provisioning_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"math/big"
	"slices"
	"testing"
	"time"

	"connectrpc.com/connect"
	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning"
	"github.com/devicekeys/devicekeys/provisioning/grant"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/statement"
)

func begin(t testing.TB, s provisioningrpc.AssemblyServiceClient, hello []byte) (*provisioningrpc.BeginResponse, error) {
	t.Helper()
	res, err := s.Begin(t.Context(), connect.NewRequest(&provisioningrpc.BeginRequest{Hello: hello}))
	if err != nil {
		return nil, err
	}
	return res.Msg, nil
}

// attest signs a hello as a chip would.
func attest(t testing.TB, s statement.Signer, h keypackage.Hello) []byte {
	t.Helper()
	m1, err := h.Encode()
	must(t, err)
	b, err := statement.Sign(t.Context(), s, statement.Attestation, m1)
	must(t, err)
	return b
}

func point(t testing.TB) statement.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	p, err := statement.FromECDSA(&k.PublicKey)
	must(t, err)
	return p
}

// effects is what a refused call must leave as it was. Incidents are no effect.
type effects struct {
	Free, Reserved, Used, Burned int64
	States                       map[records.State]int64
	Audit                        int64
}

func (l *line) effects(t testing.TB) effects {
	t.Helper()
	e := effects{}
	batches, err := l.pool.Store.Batches(t.Context())
	must(t, err)
	for _, b := range batches {
		e.Free, e.Reserved, e.Used, e.Burned = e.Free+b.Free, e.Reserved+b.Reserved, e.Used+b.Used, e.Burned+b.Burned
	}
	e.States, err = l.records.Store.Counts(t.Context())
	must(t, err)
	must(t, l.records.As("auditor").QueryRow(`select coalesce(max(seq), 0) from audit_entry`).Scan(&e.Audit))
	return e
}

// TestBeginRefuses is the policy of Begin: nothing is given to whom it does
// not concern, and nothing changes.
func TestBeginRefuses(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 3)
	listed, unlisted := l.device(t, true), l.device(t, false)
	short := l.deviceOf(t, true, 16)
	valid := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteAttested, ChipID: listed.chip.ID(), ROMKey: l.keys.ROMKey().Hash(), Point: point(t)}
	change := func(f func(h *keypackage.Hello)) []byte {
		h := valid
		f(&h)
		return attest(t, listed.chip.Attester(), h)
	}
	bare, err := valid.Encode()
	must(t, err)
	wire := func(f func(w []any)) []byte { // a hello that Encode would refuse
		w := []any{1, dev, keypackage.SuiteAttested, valid.ChipID.Bytes(), valid.ROMKey[:], valid.Point.Point()}
		f(w)
		b, err := statement.Sign(t.Context(), listed.chip.Attester(), statement.Attestation, detcbor.Array(w...))
		must(t, err)
		return b
	}
	offCurve := append([]byte{4}, bytes.Repeat([]byte{7}, 64)...)
	compressed := elliptic.MarshalCompressed(elliptic.P256(), new(big.Int).SetBytes(valid.Point.Point()[1:33]), new(big.Int).SetBytes(valid.Point.Point()[33:]))
	good := attest(t, listed.chip.Attester(), valid)

	for name, c := range map[string]struct {
		hello    []byte
		class    connect.Code
		code     provisioning.Code
		incident bool
	}{
		"nothing":                  {nil, connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"noise":                    {[]byte("hello"), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"truncated":                {good[:len(good)-1], connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"trailing byte":            {append(slices.Clone(good), 0), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"oversized":                {append(slices.Clone(good), make([]byte, 2000)...), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"not canonical":            {[]byte{0x98, 0x06, 1, 1, 2, 0x40, 0x40, 0x40}, connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"version 2":                {wire(func(w []any) { w[0] = 2 }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"suite 9":                  {wire(func(w []any) { w[2] = 9 }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"chip ID of 20 bytes":      {wire(func(w []any) { w[3] = make([]byte, 20) }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"chip ID all zero":         {wire(func(w []any) { w[3] = make([]byte, 32) }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"point off the curve":      {wire(func(w []any) { w[5] = offCurve }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"compressed point":         {wire(func(w []any) { w[5] = compressed }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"no point":                 {wire(func(w []any) { w[5] = []byte{} }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"attested of other suite":  {change(func(h *keypackage.Hello) { h.Suite = keypackage.SuiteUnattested }), connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"bare of attested suite":   {bare, connect.CodeInvalidArgument, provisioning.CodeMalformed, false},
		"production":               {change(func(h *keypackage.Hello) { h.Realm = identity.Production }), connect.CodeFailedPrecondition, provisioning.CodeOtherRealm, false},
		"another maker's ROM key":  {change(func(h *keypackage.Hello) { h.ROMKey[0] ^= 1 }), connect.CodeFailedPrecondition, provisioning.CodeROMKey, false},
		"chip ID of other length":  {short.hello(t, keypackage.SuiteAttested), connect.CodeInvalidArgument, provisioning.CodeChipIDLength, false},
		"unlisted chip":            {unlisted.hello(t, keypackage.SuiteAttested), connect.CodePermissionDenied, provisioning.CodeUnlistedChip, false},
		"another chip's signature": {attest(t, unlisted.chip.Attester(), valid), connect.CodePermissionDenied, provisioning.CodeAttestation, true},
		"changed signature":        {flip(good, len(good)-1), connect.CodePermissionDenied, provisioning.CodeAttestation, true},
		"listed, unattested":       {listed.hello(t, keypackage.SuiteUnattested), connect.CodePermissionDenied, provisioning.CodeUnattested, true},
		"unlisted, unattested":     {unlisted.hello(t, keypackage.SuiteUnattested), connect.CodePermissionDenied, provisioning.CodeUnattested, false},
	} {
		t.Run(name, func(t *testing.T) {
			before, incidents := l.effects(t), l.incidents(t)
			_, err := begin(t, l.station(t), c.hello)
			refused(t, err, c.class, c.code)
			if diff := cmp.Diff(before, l.effects(t)); diff != "" {
				t.Errorf("something changed (-before +after):\n%s", diff)
			}
			if got := l.incidents(t) != incidents; got != c.incident {
				t.Errorf("incident recorded: %v, expected %v", got, c.incident)
			}
		})
	}
	// The process still serves.
	must(t, on(l.station(t), listed).run(t.Context(), 0))
}

func (l *line) incidents(t testing.TB) int {
	t.Helper()
	all, err := l.records.Store.Incidents(t.Context(), 1000)
	must(t, err)
	return len(all)
}

func flip(b []byte, at int) []byte {
	b = slices.Clone(b)
	b[at] ^= 1
	return b
}

func TestStationRefused(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	d := l.device(t, true)
	g := stationGrant()
	foreign := newAuthority(t)

	// Refused in the handshake: none, expired, of another CA.
	for name, client := range map[string]provisioningrpc.AssemblyServiceClient{
		"none":    provisioningrpc.NewAssemblyServiceClient(l.client(t), l.spp.server.URL),
		"expired": provisioningrpc.NewAssemblyServiceClient(l.client(t, l.ca.issue(t, -time.Minute, g.URI())), l.spp.server.URL),
		"foreign": provisioningrpc.NewAssemblyServiceClient(l.client(t, foreign.issue(t, time.Hour, g.URI())), l.spp.server.URL),
	} {
		if _, err := begin(t, client, d.hello(t, keypackage.SuiteAttested)); err == nil {
			t.Errorf("a station with certificate %q was served", name)
		}
	}
	// Refused by what the certificate says.
	program := provisioningrpc.NewAssemblyServiceClient(l.client(t, l.ca.issue(t, time.Hour, grant.PeerURI(dev, "auditor", "a"))), l.spp.server.URL)
	_, err := begin(t, program, d.hello(t, keypackage.SuiteAttested))
	refused(t, err, connect.CodePermissionDenied, provisioning.CodeStation)
	for name, c := range map[string]struct {
		change func(*grant.Grant)
		class  connect.Code
		code   provisioning.Code
	}{
		"another realm":   {func(g *grant.Grant) { g.Realm = identity.Production }, connect.CodePermissionDenied, provisioning.CodeStation},
		"another line":    {func(g *grant.Grant) { g.Line = "tv" }, connect.CodePermissionDenied, provisioning.CodeLine},
		"another TAC":     {func(g *grant.Grant) { g.TACs = []grant.TACRange{{From: "00440300", To: "00440399"}} }, connect.CodePermissionDenied, provisioning.CodeTACRange},
		"TAC just beside": {func(g *grant.Grant) { g.TACs = []grant.TACRange{{From: "00440201", To: "00440201"}} }, connect.CodePermissionDenied, provisioning.CodeTACRange},
	} {
		before := l.effects(t)
		_, err := begin(t, l.station(t, c.change), d.hello(t, keypackage.SuiteAttested))
		refused(t, err, c.class, c.code)
		if diff := cmp.Diff(before, l.effects(t)); diff != "" {
			t.Errorf("%s: something changed (-before +after):\n%s", name, diff)
		}
	}
	// A quota of one: the second device is refused, the first one goes on.
	one := l.station(t, func(g *grant.Grant) { g.Station, g.Quota = "small", 1 })
	f := on(one, d)
	must(t, f.run(t.Context(), 2))
	_, err = begin(t, one, l.device(t, true).hello(t, keypackage.SuiteAttested))
	refused(t, err, connect.CodeResourceExhausted, provisioning.CodeQuota)
	for _, step := range f.steps()[2:] {
		must(t, step(t.Context()))
	}
	// After a restart the records still count, for every SPP on them.
	l.spp.stop()
	l.spp = l.start(t)
	one = l.station(t, func(g *grant.Grant) { g.Station, g.Quota = "small", 1 })
	_, err = begin(t, one, l.device(t, true).hello(t, keypackage.SuiteAttested))
	refused(t, err, connect.CodeResourceExhausted, provisioning.CodeQuota)
}

func TestPoolEmpty(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	ids := l.stock(t, 0, 1)
	must(t, on(l.station(t), l.device(t, true)).run(t.Context(), 0))
	eventually(t, "the pool forgot the identity", func() bool { return l.effects(t).Reserved == 0 })
	d := l.device(t, true)
	_, err := begin(t, l.station(t), d.hello(t, keypackage.SuiteAttested))
	refused(t, err, connect.CodeResourceExhausted, provisioning.CodePoolEmpty)
	// An identity that was used comes back into the pool, past every check: a
	// backup of the pool was restored. The records know it.
	_, err = l.pool.Store.Import(t.Context(), "restored", "phone", identity.TypeIMEI, ids)
	must(t, err)
	_, err = begin(t, l.station(t), d.hello(t, keypackage.SuiteAttested))
	refused(t, err, connect.CodeResourceExhausted, provisioning.CodePoolEmpty)
	if e := l.effects(t); e.Burned != 1 || e.Free != 0 {
		t.Errorf("the identity was not burned: %+v", e)
	}
	l.stock(t, 1, 1)
	must(t, on(l.station(t), d).run(t.Context(), 0))
}

// TestLaterCallsRefuse is the policy of the calls after Begin.
func TestLaterCallsRefuse(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 3)
	station := l.station(t)
	ctx := t.Context()
	f := on(station, l.device(t, true))
	must(t, f.run(ctx, 2))
	other := on(station, l.device(t, true))
	must(t, other.run(ctx, 2))

	confirm := func(change func(r *provisioningrpc.ConfirmRequest)) error {
		r := f.confirmRequest()
		change(r)
		_, err := station.Confirm(ctx, connect.NewRequest(r))
		return err
	}
	for name, c := range map[string]struct {
		err   error
		class connect.Code
		code  provisioning.Code
	}{
		"short record id":     {confirm(func(r *provisioningrpc.ConfirmRequest) { r.RecordId = r.RecordId[1:] }), connect.CodeInvalidArgument, provisioning.CodeMalformed},
		"generation 0":        {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Generation = 0 }), connect.CodeInvalidArgument, provisioning.CodeMalformed},
		"unknown record":      {confirm(func(r *provisioningrpc.ConfirmRequest) { r.RecordId = make([]byte, 32) }), connect.CodeNotFound, provisioning.CodeUnknown},
		"generation 2":        {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Generation = 2 }), connect.CodeNotFound, provisioning.CodeUnknown},
		"no backup":           {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Backup = nil }), connect.CodeInvalidArgument, provisioning.CodeBackupCode},
		"a data package":      {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Backup = f.begun.Package }), connect.CodeInvalidArgument, provisioning.CodeBackupCode},
		"flipped backup code": {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Backup = flip(r.Backup, 5) }), connect.CodeInvalidArgument, provisioning.CodeBackupCode},
		"truncated backup":    {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Backup = r.Backup[:len(r.Backup)-1] }), connect.CodeInvalidArgument, provisioning.CodeMalformed},
		"another's backup": {confirm(func(r *provisioningrpc.ConfirmRequest) {
			r.Backup, r.Mac = other.accepted.Backup, other.accepted.Confirm
		}), connect.CodeInvalidArgument, provisioning.CodeManifest},
		"flipped manifest":   {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Backup = flip(r.Backup, 40) }), connect.CodeInvalidArgument, provisioning.CodeManifest},
		"flipped ciphertext": {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Backup = flip(r.Backup, len(r.Backup)-1) }), connect.CodePermissionDenied, provisioning.CodeMAC},
		"flipped MAC":        {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Mac = flip(r.Mac, 0) }), connect.CodePermissionDenied, provisioning.CodeMAC},
		"another's MAC":      {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Mac = other.accepted.Confirm }), connect.CodePermissionDenied, provisioning.CodeMAC},
		"short MAC":          {confirm(func(r *provisioningrpc.ConfirmRequest) { r.Mac = r.Mac[1:] }), connect.CodeInvalidArgument, provisioning.CodeMalformed},
		"restored too soon":  {f.prove(ctx), connect.CodeFailedPrecondition, provisioning.CodeState},
		"published too soon": {f.publish(ctx), connect.CodeFailedPrecondition, provisioning.CodeState},
		"locked too soon":    {f.ship(ctx), connect.CodeFailedPrecondition, provisioning.CodeState},
		"a proof before its day": {func() error {
			_, err := station.Challenge(ctx, connect.NewRequest(&provisioningrpc.ChallengeRequest{RecordId: f.begun.RecordId}))
			return err
		}(), connect.CodeFailedPrecondition, provisioning.CodeState},
	} {
		t.Run(name, func(t *testing.T) { refused(t, c.err, c.class, c.code) })
	}
	d, err := l.records.Store.Newest(ctx, f.record())
	must(t, err)
	if d.State != records.Packaged || len(d.Backup) != 0 {
		t.Errorf("a refused confirmation left state %s", d.State)
	}

	must(t, f.confirm(ctx))
	refused(t, confirm(func(r *provisioningrpc.ConfirmRequest) { r.Backup = flip(r.Backup, len(r.Backup)-1) }), connect.CodeAlreadyExists, provisioning.CodeConflict)
	refused(t, f.begin(ctx), connect.CodeAlreadyExists, provisioning.CodeActive) // a fresh hello after the confirmation
	must(t, f.restore(ctx))
	good := f.restored
	f.restored = flip(good, 3)
	refused(t, f.prove(ctx), connect.CodePermissionDenied, provisioning.CodeMAC)
	f.restored = good[:31]
	refused(t, f.prove(ctx), connect.CodeInvalidArgument, provisioning.CodeMalformed)
	f.restored = good
	must(t, f.prove(ctx))
	f.restored = flip(good, 3)
	refused(t, f.prove(ctx), connect.CodeAlreadyExists, provisioning.CodeConflict)
	must(t, f.publish(ctx))
	must(t, f.lock(ctx))
	locked := f.locked
	f.locked = flip(locked, 0)
	refused(t, f.ship(ctx), connect.CodePermissionDenied, provisioning.CodeMAC)
	f.locked = locked
	must(t, f.ship(ctx))
	f.locked = flip(locked, 0)
	refused(t, f.ship(ctx), connect.CodePermissionDenied, provisioning.CodeMAC)

	// Another line's station sees nothing of it.
	prove := func(challenge, mac []byte) error {
		_, err := station.Prove(ctx, connect.NewRequest(&provisioningrpc.ProveRequest{RecordId: f.begun.RecordId, Challenge: challenge, Mac: mac}))
		return err
	}
	ch, err := station.Challenge(ctx, connect.NewRequest(&provisioningrpc.ChallengeRequest{RecordId: f.begun.RecordId}))
	must(t, err)
	refused(t, prove(make([]byte, 32), make([]byte, 32)), connect.CodeFailedPrecondition, provisioning.CodeChallenge)
	refused(t, prove(ch.Msg.Challenge, make([]byte, 32)), connect.CodePermissionDenied, provisioning.CodeMAC)
	refused(t, prove(ch.Msg.Challenge[:5], make([]byte, 32)), connect.CodeInvalidArgument, provisioning.CodeMalformed)
}

// TestCopiedChipID: a copied chip ID alone gets nothing and stops nobody.
func TestCopiedChipID(t *testing.T) {
	t.Parallel()
	l := newLine(t)
	l.stock(t, 0, 2)
	victim := l.device(t, true)
	must(t, on(l.station(t), victim).run(t.Context(), 0))
	thief := registrytest.NewSigner(t, "thief")
	h := keypackage.Hello{Realm: dev, Suite: keypackage.SuiteAttested, ChipID: victim.chip.ID(), ROMKey: l.keys.ROMKey().Hash(), Point: point(t)}
	_, err := begin(t, l.station(t), attest(t, thief, h))
	refused(t, err, connect.CodePermissionDenied, provisioning.CodeAttestation)
	d, err := l.records.Store.Newest(t.Context(), victim.chip.ID().RecordID())
	must(t, err)
	if d.State != records.Shipped {
		t.Errorf("a stranger brought a shipped device to %s", d.State)
	}
}
