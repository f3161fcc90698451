package postgres

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"strconv"
	"syscall"
)

// systemPath finds the few tools that the scripts here use: sed, rm.
const systemPath = "/usr/local/bin:/usr/bin:/bin"

// account is the system user that the server's processes run as.
type account struct {
	uid, gid uint32
	switched bool // from root to this user
	override bool // with CAP_DAC_OVERRIDE: files and folders are reached whatever their modes
}

// runAs picks the account: the user's own, or for root that of "postgres".
func runAs() (account, error) {
	if uid := os.Geteuid(); uid != 0 {
		return account{uid: uint32(uid), gid: uint32(os.Getegid())}, nil
	}
	u, err := user.Lookup("postgres")
	var unknown user.UnknownUserError
	if errors.As(err, &unknown) {
		return account{}, fmt.Errorf("%w: it refuses to run as root, and there is no user postgres to run it as: install the package postgresql, or run as an ordinary user", ErrNotInstalled)
	}
	if err != nil {
		return account{}, fmt.Errorf("look up user postgres: %w", err)
	}
	uid, err1 := strconv.ParseUint(u.Uid, 10, 32)
	gid, err2 := strconv.ParseUint(u.Gid, 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return account{}, fmt.Errorf("look up user postgres: %w", err)
	}
	return account{uid: uint32(uid), gid: uint32(gid), switched: true}, nil
}

// dirMode is the mode of a new Config.Dir. Postgres has to pass through it, so for root
// it is 0711; the password files in it have 0400.
func (a account) dirMode() fs.FileMode {
	if a.switched {
		return 0o711
	}
	return 0o700
}

// own makes path the account's.
func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// command is a command that runs as the account, away from our terminal's signals,
// and with an environment of its own: ours may name other servers, or have folders in
// PATH that the account had better not run things from.
func (a account) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = "/" // ours may be out of the account's reach
	cmd.Env = []string{"PATH=" + systemPath, "LC_ALL=C", "TZ=UTC", "HOME=/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
		a.addCapability(cmd.SysProcAttr)
	}
	return cmd
}

// reach finds how the account can write in folder: as it is, or with the capability,
// which may be missing for reasons of the container. An account that has it keeps it.
func (a account) reach(folder string) (_ account, ok bool) {
	if a.writes(folder) {
		return a, true
	}
	if !a.switched || a.override || !capabilityExists {
		return a, false
	}
	with := a
	with.override = true
	if with.writes(folder) {
		return with, true
	}
	return a, false
}

// writes tells whether the account can make something in folder and remove it. The name is
// drawn, for folder may be one where others could have put a link.
func (a account) writes(folder string) bool {
	const try = `d=$(mktemp -d "$1/dkpg-XXXXXXXX") && rmdir "$d"`
	return a.command("/bin/sh", "-c", try, "sh", folder).Run() == nil
}
