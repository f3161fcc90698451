package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// senderFlags say by whose word a file of keys is taken.
type senderFlags struct {
	Sender    console.Path `name:"sender" placeholder:"FILE" help:"The sender's public key, PEM, as you have it from him: not from where the file came."`
	Signature console.Path `name:"signature" placeholder:"FILE" help:"His signature of this file for this product line (spp pool sign-keys, or docs/formats.md section 17)."`
	SHA256    string       `name:"sha256" placeholder:"HEX" help:"Instead of both, where the sender can't sign: SHA-256 of the file, heard from him another way than the file went."`
}

func (f senderFlags) check() error {
	switch signed := f.Sender != "" && f.Signature != ""; {
	case (f.Sender != "") != (f.Signature != ""):
		return console.Usagef("--sender and --signature belong together")
	case signed == (f.SHA256 != ""):
		return console.Usagef("whose file it is, is not known: give --sender and --signature, or, where the sender can't sign, --sha256")
	case signed:
		return nil
	}
	if b, err := hex.DecodeString(f.SHA256); err != nil || len(b) != sha256.Size {
		return console.Usagef("--sha256 %q: 64 hexadecimal digits are expected", f.SHA256)
	}
	return nil
}

const nextSender = "nothing was imported: ask the sender, another way than the file came, whether it is his file as he made it"

// authenticate tells by whose word a file with this hash is taken, or refuses it. It reads nothing else of the file.
func (f senderFlags) authenticate(file string, realm identity.Realm, line string, hash [sha256.Size]byte) (sender string, err error) {
	refused := func(err error) (string, error) {
		return "", refusal(fmt.Errorf("%q: %w", file, err), codeSender, nextSender)
	}
	if f.SHA256 != "" {
		want, err := hex.DecodeString(f.SHA256)
		if err != nil {
			return "", err // check has seen it
		}
		if string(want) != string(hash[:]) {
			return refused(fmt.Errorf("its SHA-256 is %x, the sender said %s", hash, f.SHA256))
		}
		return "whose SHA-256 was compared", nil
	}
	text, err := readSmall(f.Sender.String())
	if err != nil {
		return "", err
	}
	key, err := statement.ParsePEM(text)
	if err != nil {
		return "", console.Hint(fmt.Errorf("sender's key %q: %w", f.Sender, err), "give his P-256 public key in PEM: openssl pkey -in key.pem -pubout")
	}
	raw, err := readSmall(f.Signature.String())
	if err != nil {
		return "", err
	}
	k, err := keypackage.ParseKeyFile(raw, key)
	if err == nil {
		err = k.Match(keypackage.KeyFile{Realm: realm, Line: line, Hash: hash})
	}
	if err != nil {
		return refused(fmt.Errorf("signature %q: %w", f.Signature, err))
	}
	return "signed by " + key.String(), nil
}

// maxSmall bounds a file that holds a key or a signature, in bytes.
const maxSmall = 4096

func readSmall(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // opened for reading: nothing to lose
	b, err := io.ReadAll(io.LimitReader(f, maxSmall+1))
	if err == nil && len(b) > maxSmall {
		err = errors.New("it is too long for a key or a signature")
	}
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", path, err)
	}
	return b, nil
}
