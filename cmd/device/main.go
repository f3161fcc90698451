// Command device is a bench of personal devices in a folder, each with a chip
// in a PKCS#11 token of its own and a flash image, and what its owner needs:
// boot it, and restore it from the public registry with nothing but the device.
package main

import (
	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

const description = `Personal devices: make them, look at them, boot, wipe and restore them.

A device is a slot in a folder: a chip, which is a token of its own and keeps its secrets, and a flash image, which ` +
	`can be lost. A wiped device is restored from the public registry by its chip ID, which never leaves this program. ` +
	`What a device refuses ends with code 3 and the reason.`

const session = `$ device create 3
$ device slots
$ device wipe device-0001
$ device boot device-0001
device: the device refuses (no-flash): it lacks its identity, ...
next: restore the device from its record in the registry (device restore)
$ device restore device-0001 --registry http://127.0.0.1:8080
$ device boot device-0001`

// program is the grammar of the command line.
type program struct {
	Create  createCmd  `cmd:"" help:"Make device slots, and the chip maker's signed delivery list."`
	Slots   slotsCmd   `cmd:"" help:"List the device slots."`
	Show    showCmd    `cmd:"" help:"Show what a device is and what it lacks."`
	ROM     romCmd     `cmd:"" name:"rom" help:"Write the manufacturer's public key into the ROM, once."`
	Boot    bootCmd    `cmd:"" help:"Boot a device from its flash."`
	Prove   proveCmd   `cmd:"" help:"Boot a device and have it answer a challenge with its own key."`
	Wipe    wipeCmd    `cmd:"" help:"Erase a device's flash; what is in its chip stays."`
	Restore restoreCmd `cmd:"" help:"Restore a device's flash from the registry, or from files."`
	Channel channelCmd `cmd:"" help:"The secure channel with the maker's device service."`
	Message messageCmd `cmd:"" help:"Messages to the device."`
	Hello   helloCmd   `cmd:"" help:"Have a device say its first message on the line."`
	Accept  acceptCmd  `cmd:"" help:"Give a device a data package from a file."`
}

func main() { console.Main("device", description, &program{}, console.Examples(session)) }
