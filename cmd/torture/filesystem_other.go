//go:build !linux

package main

// mountSmall needs Linux's tmpfs.
func mountSmall(string, int64) error { return errNoMount }

func unmount(string) error { return nil }
