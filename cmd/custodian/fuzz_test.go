package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"testing"
)

// FuzzParseRequest: a certificate request is signed by the key that it asks for, and has one encoding.
func FuzzParseRequest(f *testing.F) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		f.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "spp-1"}}, key)
	if err != nil {
		f.Fatal(err)
	}
	write := func(der []byte) []byte {
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	changed := bytes.Clone(der)
	changed[len(changed)-1] ^= 1
	for _, seed := range [][]byte{write(der), write(changed), write(der[:40]), der, append(write(der), 'x'), append(write(der), write(der)...)} {
		f.Add(seed)
	}
	if _, err := parseRequest(write(der)); err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRequest(text)
		if err != nil {
			if r != nil {
				t.Fatal("a request beside an error")
			}
			return
		}
		if err := r.CheckSignature(); err != nil {
			t.Fatalf("nobody signed it: %v", err)
		}
		if again, err := parseRequest(write(r.Raw)); err != nil || !bytes.Equal(again.Raw, r.Raw) {
			t.Fatalf("it is written as another: %v", err)
		}
		if _, err := parseRequest(append(text, 'x')); err == nil {
			t.Fatal("read with a letter behind it")
		}
	})
}
