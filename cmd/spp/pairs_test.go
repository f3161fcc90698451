package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/devicekeys/devicekeys/hsm/transport"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// wrapKeys writes a file for pool import-keys as somebody outside makes it, who
// has nothing but the transport key's public half. "ID,ENTRY=OTHER" wraps the key
// as another identity's.
func (s onStage) wrapKeys(file string, keys []string) {
	to := s.transportKey()
	var text strings.Builder
	for _, k := range keys {
		name, as, _ := strings.Cut(k, "=")
		value, entry, _ := strings.Cut(name, ",")
		id, err := identity.FromValue(identity.TypeEUI48, value)
		s.Check(err)
		labelled := id
		if as != "" {
			labelled, err = identity.FromValue(identity.TypeEUI48, as)
			s.Check(err)
		}
		key := make([]byte, 32)
		rand.Read(key) // never fails
		blob, err := transport.WrapSoftware(identity.Development, to, keypackage.DeviceKeyLabel(labelled, entry), key)
		s.Check(err)
		fmt.Fprintf(&text, "%s,%s,,%s\n", value, entry, base64.StdEncoding.EncodeToString(blob))
	}
	s.place.write(file, []byte(text.String()))
}

// clearKeys writes what somebody outside has in clear, for pool wrap-keys.
func (s onStage) clearKeys(file string, keys []string) {
	named := map[string][]byte{}
	var text strings.Builder
	for _, k := range keys {
		k, option, _ := strings.Cut(k, "=")
		fields := strings.Split(k, ",")
		value := make([]byte, 32)
		rand.Read(value) // never fails
		switch {
		case fields[2] == formPair && named[option] != nil:
			value = named[option]
		case fields[2] == formPair:
			private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
			s.Check(err)
			value, err = x509.MarshalPKCS8PrivateKey(private)
			s.Check(err)
			named[option] = value
			delete(named, "")
		case strings.HasPrefix(option, "d"):
			n, err := strconv.Atoi(option[1:])
			s.Check(err)
			value = bytes.Repeat([]byte("7"), n)
		case option != "":
			n, err := strconv.Atoi(option)
			s.Check(err)
			value = make([]byte, n)
			rand.Read(value) // never fails
		}
		fmt.Fprintf(&text, "%s,%s\n", k, base64.StdEncoding.EncodeToString(value))
	}
	s.place.write(file, []byte(text.String()))
}

// transportKey is what the custodian gives to whoever makes keys elsewhere.
func (s onStage) transportKey() statement.PublicKey {
	s.place.run("custodian", "transport", "show", "-c", "custodian.yaml", "--out", "transport.pem")
	text, err := os.ReadFile(filepath.Join(s.place.dir, "transport.pem"))
	s.Check(err)
	to, err := statement.ParsePEM(text)
	s.Check(err)
	return to
}
