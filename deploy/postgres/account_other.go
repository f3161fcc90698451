//go:build !linux

package postgres

import "syscall"

var capabilityExists = false

func (account) addCapability(*syscall.SysProcAttr) {}
