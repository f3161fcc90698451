package pooltest

import (
	"database/sql"
	"slices"
	"strings"
	"testing"

	"github.com/lib/pq"
	"github.com/lib/pq/pqerror"
)

// Policy tries every action on a table as the role that db is connected as, and
// compares with what is allowed: words out of select, insert, update, delete,
// truncate. No row changes.
func Policy(t testing.TB, db *sql.DB, role, table, allowed string) {
	t.Helper()
	var column string
	err := db.QueryRow(`select attname from pg_attribute where attrelid = $1::regclass and attnum > 0 and attidentity = '' limit 1`, table).Scan(&column)
	if err != nil {
		t.Fatal(err)
	}
	for action, query := range map[string]string{
		"select":   `select ` + column + ` from ` + table + ` limit 0`,
		"insert":   `insert into ` + table + ` (` + column + `) select ` + column + ` from (select (null::` + table + `).*) x where false`,
		"update":   `update ` + table + ` set ` + column + ` = default where false`,
		"delete":   `delete from ` + table + ` where false`,
		"truncate": `truncate ` + table,
	} {
		_, err := db.Exec(query)
		denied := pq.As(err, pqerror.InsufficientPrivilege) != nil
		if err != nil && !denied {
			t.Errorf("%s, %s %s: %v", role, action, table, err)
		}
		if want := !slices.Contains(strings.Fields(allowed), action); denied != want {
			t.Errorf("%s, %s %s: denied is %v, want %v", role, action, table, denied, want)
		}
	}
}
