package postgres

import (
	"context"
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/secret"
)

// namePattern is what roles and databases are called here: names that need no quotes
// anywhere. Postgres keeps 63 bytes.
var namePattern = regexp.MustCompile(`^[a-z][a-z0-9_]{0,62}$`)

func checkName(kind, name string) error {
	if !namePattern.MatchString(name) || name == superuser || strings.HasPrefix(name, "pg_") {
		return fmt.Errorf("%s name %q: take 1 to 63 of a-z, 0-9 and _, beginning with a letter, not %s or pg_…", kind, name, superuser)
	}
	return nil
}

// Role makes a role that may log in and nothing else, with a random scram password, and
// returns the file of mode 0400 that holds it. A role that exists keeps its
// password; if the file is gone it gets a new one.
//
// The file is written first. A crash before the role is made leaves a file, and the next
// call makes the role with that password.
func (s *Server) Role(ctx context.Context, name string) (passwordFile string, err error) {
	if err := checkName("role", name); err != nil {
		return "", err
	}
	s.roles.Lock()
	defer s.roles.Unlock()
	passwordFile = filepath.Join(s.dir, "role-"+name+".password")
	err = secret.WriteFile(passwordFile, secret.Random(passwordBytes))
	fresh := err == nil
	if err != nil && !errors.Is(err, secret.ErrExist) {
		return "", err
	}
	password, err := secret.ReadFile(passwordFile)
	if err != nil {
		return "", err
	}
	var exists bool
	if err := s.admin.QueryRowContext(ctx, `select exists(select from pg_roles where rolname = $1)`, name).Scan(&exists); err != nil {
		return "", fmt.Errorf("make role %q: %w", name, err)
	}
	if exists && !fresh {
		return passwordFile, nil
	}
	stored, err := verifier(password)
	if err != nil {
		return "", fmt.Errorf("make role %q: %w", name, err)
	}
	verb := "create"
	if exists {
		verb = "alter"
	}
	// Name and verifier have no letter that needs quoting.
	if _, err := s.admin.ExecContext(ctx, verb+` role `+name+` login password '`+stored+`'`); err != nil {
		return "", fmt.Errorf("make role %q: %w", name, err)
	}
	return passwordFile, nil
}

// verifier is what Postgres stores of a password (RFC 5803, as in its table
// pg_authid), so that the password itself never goes to the server. Passwords are
// ASCII here, so that SASLprep (RFC 4013) leaves them as they are.
func verifier(password secret.Secret) (string, error) {
	const iterations = 4096 // Postgres's own default; the password has 160 bits
	salt := make([]byte, 16)
	rand.Read(salt)
	salted, err := pbkdf2.Key(sha256.New, string(password.Bytes()), salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	mac := func(text string) []byte {
		h := hmac.New(sha256.New, salted)
		io.WriteString(h, text)
		return h.Sum(nil)
	}
	stored := sha256.Sum256(mac("Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(mac("Server Key"))), nil
}

// CreateDatabase makes a database owned by a role. Only the owner and the named users
// may connect to it, and only the owner may make tables in it. If it exists, with the same
// owner, just the rights are brought up to date; so a crash between the steps is
// repaired by calling again.
func (s *Server) CreateDatabase(ctx context.Context, name, owner string, users ...string) error {
	if err := checkName("database", name); err != nil {
		return err
	}
	for _, role := range append([]string{owner}, users...) {
		if err := checkName("role", role); err != nil {
			return err
		}
	}
	if err := s.createDatabase(ctx, name, owner, users); err != nil {
		return fmt.Errorf("create database %q: %w", name, err)
	}
	return nil
}

func (s *Server) createDatabase(ctx context.Context, name, owner string, users []string) error {
	// Others at the same time: the second finds the first one's.
	_, err := s.admin.ExecContext(ctx, `create database `+name+` owner `+owner+` template template0`)
	if err != nil && !duplicate(err) {
		return err
	}
	var have string
	if err := s.admin.QueryRowContext(ctx, `select pg_get_userbyid(datdba) from pg_database where datname = $1`, name).Scan(&have); err != nil {
		return err
	}
	if have != owner {
		return fmt.Errorf("it belongs to %q, not to %q: choose another name, or drop it if nothing needs it", have, owner)
	}
	rights := []string{`revoke all on database ` + name + ` from public`}
	for _, user := range users {
		rights = append(rights, `grant connect on database `+name+` to `+user)
	}
	for _, right := range rights {
		if _, err := s.admin.ExecContext(ctx, right); err != nil {
			return err
		}
	}
	db, err := s.open(ctx, name)
	if err != nil {
		return err
	}
	defer db.Close()
	// Before Postgres 15 everybody could create there.
	_, err = db.ExecContext(ctx, `alter schema public owner to `+owner+`; revoke create on schema public from public`)
	return err
}

// duplicate: the database is there already.
func duplicate(err error) bool {
	if _, ok := database.UniqueViolation(err); ok {
		return true // two at the same moment
	}
	var state interface{ SQLState() string }
	return errors.As(err, &state) && state.SQLState() == "42P04"
}

// Dump writes a database to w as SQL, all rows included, by pg_dump as the superuser.
func (s *Server) Dump(ctx context.Context, name string, w io.Writer) error {
	cmd := exec.CommandContext(ctx, s.bin.path("pg_dump"), "--host", s.sockets, "--port", port, "--username", superuser, "--no-password", name)
	cmd.Env = []string{"PATH=" + systemPath, "PGPASSFILE=" + s.Passfile()}
	var complaint strings.Builder
	cmd.Stdout, cmd.Stderr = w, &complaint
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("dump database %q: %w: %s", name, err, complaint.String())
	}
	return nil
}
