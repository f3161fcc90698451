package ha

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
)

// account is the system user that the servers run as.
type account struct {
	uid, gid uint32
	switched bool // from root
}

// ownerOf finds the account that a data folder belongs to.
func ownerOf(data string) (account, error) {
	info, err := os.Stat(data)
	if err != nil {
		return account{}, err
	}
	owner, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return account{}, fmt.Errorf("%q: the system doesn't say whose it is", data)
	}
	a := account{uid: owner.Uid, gid: owner.Gid, switched: owner.Uid != uint32(os.Geteuid())}
	if a.switched && os.Geteuid() != 0 {
		return account{}, fmt.Errorf("%q belongs to user %d: run as that user, or as root", data, a.uid)
	}
	return a, nil
}

func (a account) own(path string) error {
	if !a.switched {
		return nil
	}
	return os.Lchown(path, int(a.uid), int(a.gid))
}

// command is a command that runs as the account in a folder, away from our terminal's
// signals, with an environment of its own: ours may name other servers.
func (a account) command(dir, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", "TZ=UTC", "HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if a.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: a.uid, Gid: a.gid}
	}
	return cmd
}

// public is where every user may make a folder that outlives a restart.
const public = "/var/tmp"

// Place makes dir and gives it if the servers can be run below it, else a folder of the same name in
// /var/tmp: as root they run as another user, who can't pass through root's own folders.
func Place(dir string) (string, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", err
	}
	for parent := filepath.Dir(dir); os.Geteuid() == 0; parent = filepath.Dir(parent) {
		info, err := os.Stat(parent)
		if err != nil {
			return "", err
		}
		if info.Mode()&0o001 == 0 {
			dir = filepath.Join(public, "devicekeys-"+filepath.Base(dir))
			break
		}
		if parent == filepath.Dir(parent) {
			break
		}
	}
	if err := os.Mkdir(dir, 0o711); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	// Anyone could have put something of that name into a public folder.
	info, err := os.Lstat(dir)
	if err != nil {
		return "", err
	}
	if owner, ok := info.Sys().(*syscall.Stat_t); !ok || !info.IsDir() || owner.Uid != uint32(os.Geteuid()) || info.Mode()&0o022 != 0 {
		return "", fmt.Errorf("folder %q is another user's, or others may write in it: remove it or name another one", dir)
	}
	return dir, nil
}
