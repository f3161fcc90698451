package interop_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deviceservice/issued"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/records/recordstest"
	"github.com/devicekeys/devicekeys/registry/store/storetest"
)

// denied is Postgres's insufficient_privilege.
const denied = "42501"

// psql runs one statement as a role, in a transaction that is rolled back, and gives the SQLSTATE, "" where it went.
func psql(t testing.TB, c database.Config, statement string) string {
	t.Helper()
	path := tool(t, "psql")
	password := strings.TrimSpace(string(read(t, c.PasswordFile)))
	r := execute(t, []string{"PATH=/usr/bin:/bin", "PGPASSWORD=" + password}, []byte("begin;\n"+statement+";\nrollback;\n"),
		path, "--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--set", "VERBOSITY=verbose", "--file", "-", c.DSN)
	if r.code == 0 {
		return ""
	}
	m := regexp.MustCompile(`ERROR:  ([0-9A-Z]{5}):`).FindStringSubmatch(r.errs)
	if m == nil {
		t.Fatalf("psql fails, and not because the server says so: %v", r)
	}
	return m[1]
}

// TestPsqlIsRefused: each role, with its own password and psql, may do what its program needs and nothing else.
func TestPsqlIsRefused(t *testing.T) {
	t.Parallel()
	tool(t, "psql")
	registry, pool, records, service := storetest.New(t), pooltest.New(t), recordstest.New(t), issuedtest.New(t)
	const (
		entry = `insert into entry (seq, realm, type, record_id, generation, sealed, sealed_hash, leaf_hash)
			values (0, 1, 1, decode(repeat('01', 32), 'hex'), 1, '\x00', decode(repeat('02', 32), 'hex'), decode(repeat('03', 32), 'hex'))`
		batch = `insert into batch (name, line, type, imported, free) values ('b', 'phone', 1, 1, 1)`
		log   = `select audit_append('body')`
	)
	for _, v := range []struct {
		name   string
		config func(role string) database.Config
		role   string
		may    []string
		not    []string
	}{
		{"registry", registry.Config, registry.Roles.Reader,
			[]string{`select * from entry`, `select size from head`},
			[]string{entry, `update entry set realm = 2`, `delete from entry`, `truncate entry`, `update head set size = 7`, `insert into head values (1, 0)`, `delete from head`,
				`drop table entry`, `alter table entry disable trigger all`, `create table mine (a int)`,
				`select pg_read_file('/etc/passwd')`, `copy entry to program 'cat'`, `set role sequencer`, `set session authorization sequencer`}},
		{"registry", registry.Config, registry.Roles.Sequencer,
			[]string{`select * from entry`, entry, `update head set size = size + 1`, entry + `; update head set size = 1`},
			[]string{`update entry set sealed = null`, `delete from entry`, `truncate entry`, entry + `; update entry set generation = 2`, entry + `; delete from entry`,
				entry + ` on conflict (seq) do update set generation = 2`, `update head set id = 1`, `update head set size = size`, `update head set size = 0`, `delete from head`,
				`insert into head values (1, 0)`, `drop table entry`, `alter table entry disable trigger all`, `drop trigger entry_stands on entry`, `create table mine (a int)`,
				`select pg_read_file('/etc/passwd')`, `set session authorization postgres`}},
		{"registry", registry.Config, registry.Roles.Auditor,
			[]string{`select * from entry`, `select size from head`},
			[]string{entry, `update entry set realm = 2`, `delete from entry`, `update head set size = 7`}},
		{"pool", pool.Config, "spp",
			[]string{`select * from waiting`, batch, batch + `; update batch set free = 0, used = 1`, `delete from waiting`},
			[]string{`truncate waiting`, `drop table batch`, `alter table batch drop constraint batch_sum`, `create table mine (a int)`, `set session authorization pool_owner`}},
		{"pool", pool.Config, "auditor",
			[]string{`select * from batch`, `select * from waiting`, `select * from burned`},
			[]string{batch, `update batch set free = 1`, `delete from waiting`, `truncate burned`, `insert into burned (type, value, batch, reason) values (1, '1', 1, 'x')`}},
		{"records", records.Config, "spp",
			[]string{`select * from device`, `update device set state = state`, log, `select * from audit_head_row`},
			[]string{`delete from device`, `truncate device`, `delete from identity_use`, `delete from incident`, `update incident set at = now()`, `delete from chip`,
				`delete from operator_order`, `update operator_order set at = now()`, `update unlock set record_id = record_id`, `delete from unlock`, `delete from revocation`,
				`select * from audit_entry`, `insert into audit_entry values (1, now(), 'x', decode(repeat('00', 32), 'hex'), decode(repeat('00', 32), 'hex'))`,
				`update audit_entry set body = 'x'`, `delete from audit_entry`, `update audit_head_row set seq = 0`, `delete from audit_signed_head`, `drop table device`}},
		{"records", records.Config, "auditor",
			[]string{`select * from device`, `select * from audit_entry`, `select * from audit_signed_head`, log},
			[]string{`update device set state = state`, `insert into identity_use select * from identity_use`, `delete from device`, `update audit_entry set body = 'x'`, `delete from audit_entry`,
				`insert into audit_signed_head (seq, statement) values (1, 'x')`, `update plan set taken = now()`}},
		{"records", records.Config, "custodian",
			[]string{log, `select * from audit_head_row`},
			[]string{`select * from device`, `select * from chip`, `select * from identity_use`, `insert into device select * from device`, `update device set state = state`, `delete from device`,
				`select * from audit_entry`, `delete from audit_entry`, `update audit_head_row set seq = 0`}},
		{"records", service.Config, issued.DefaultRole,
			[]string{`select * from issued`, `select * from service_key`},
			[]string{`select * from device`, `select * from identity_use`, `select * from chip`, `select * from audit_entry`, log, `update issued set state = state`, `delete from issued`,
				`insert into service_key select * from service_key`, `update service_key set blob = blob`, `delete from service_key`, `select issued_grant('service')`,
				`create table mine (a int)`, `set role spp`, `set session authorization records_owner`}},
		{"records", records.Config, "records_owner", // what is the owner's may be changed by it, and the log's history not even by it
			[]string{`delete from device`, log},
			[]string{log + `; update audit_entry set body = 'x'`, log + `; delete from audit_entry`, `truncate audit_entry cascade`, log + `; update audit_head_row set seq = 0`}},
		{"registry", registry.Config, registry.Owner(),
			[]string{entry},
			[]string{`update entry set realm = 2`, `delete from entry`, `truncate entry`, `delete from head`, `update head set size = size`}},
	} {
		t.Run(v.name+"/"+v.role, func(t *testing.T) {
			c := v.config(v.role)
			for _, s := range v.may {
				if state := psql(t, c, s); state != "" {
					t.Errorf("%s: %s, and it may", s, state)
				}
			}
			for _, s := range v.not {
				if state := psql(t, c, s); state != denied {
					t.Errorf("%s: %q, want %s", s, state, denied)
				}
			}
		})
	}
}
