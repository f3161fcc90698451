package main

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// mountSmall mounts a file system of so many bytes in memory.
func mountSmall(path string, bytes int64) error {
	err := unix.Mount("tmpfs", path, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, fmt.Sprintf("size=%d,mode=0711", bytes))
	if errors.Is(err, unix.EPERM) {
		return errNoMount
	}
	return err
}

// unmount takes it away, whoever still has a file of it open.
func unmount(path string) error { return unix.Unmount(path, unix.MNT_DETACH) }
