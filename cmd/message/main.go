// Command message writes to devices: it encrypts a file to a device's
// certificate, which it takes from the registry or from a file. It needs
// neither cgo nor an HSM; only the device can open what it makes.
package main

import "github.com/devicekeys/devicekeys/cmd/internal/console"

const description = `Mail to a device, encrypted so that only the device can open it. The device's certificate comes from the registry, for
whoever knows the chip ID, or from a file; it must be signed by a device CA that you name. A message may be signed with a
key of yours, so that the device knows who wrote. It then travels as any file does.`

const session = `$ message sendto --realm development --ca device-ca.pem --certificate device.pem --content-type text/plain \
    --in letter.txt --out letter.msg
what           value
message id     c6a42378a8cdad7e7bb9cf474e8c73d7
record         5eb9155ae051a0c3c90358d08244d50d019736f56629bb99a8892f9ab6660c90
recipient key  3c99c7cb56cf4d85736d1607ecb61cb6c131fd0da58f2606533619a4f71af8a4
certificate    2a003e70cbeec3bdc57b9ba322855d615ad9a7cbd7f185aeadeae948a2e34b3f
content type   text/plain
signed by      nobody
bytes          210
file           letter.msg
$ message inspect letter.msg
what           value
suite          DHKEM(P-256, HKDF-SHA256), HKDF-SHA256, AES-256-GCM
recipient key  3c99c7cb56cf4d85736d1607ecb61cb6c131fd0da58f2606533619a4f71af8a4
bytes          210
encrypted      104`

type program struct {
	Sendto  sendtoCmd  `cmd:"" help:"Encrypt a file to a device."`
	Inspect inspectCmd `cmd:"" help:"Show what can be seen of a message without its key."`
}

func main() {
	console.Main("message", description, &program{}, console.Examples(session))
}
