package keypackage_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"flag"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/keypackage/keypackagetest"
	"github.com/devicekeys/devicekeys/statement"
)

var update = flag.Bool("update", false, "write the golden vectors anew instead of comparing them")

// sequence gives n bytes that count up from first: keys anyone can type.
func sequence(first byte, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = first + byte(i)
	}
	return b
}

// vectors is a whole transfer and backup of one device with every kind of
// entry, all keys known. docs/formats.md explains each line.
type vectors struct {
	MasterKey      string `json:"master_key"`
	PurposeContext string `json:"purpose_context"`
	PurposeKey     string `json:"purpose_key"`
	DeviceContext  string `json:"device_key_context"`
	DeviceKey      string `json:"device_key"`
	CheckMessage   string `json:"check_message"`
	CheckValue     string `json:"check_value"`
	Commitment     string `json:"sim_lock_commitment"`
	Manifest       string `json:"manifest"`
	ManifestHash   string `json:"manifest_hash"`
	Claims         string `json:"claims"`
	ClaimsHash     string `json:"claims_hash"`

	PrivateD      string `json:"private_d"`
	PrivateS      string `json:"private_s"`
	Hello         string `json:"hello"`
	Transcript    string `json:"transcript"`
	Agreed        string `json:"agreed_secret"`
	KEKContext    string `json:"kek_context"`
	KEK           string `json:"kek"`
	PackageKey    string `json:"package_key"`
	WrappedForD   string `json:"device_key_under_kek"`
	PackageAAD    string `json:"package_gcm_aad"`
	Secrets       string `json:"secrets_plaintext"`
	SealedSecrets string `json:"secrets_sealed"`

	ChipKey     string `json:"chip_key"`
	WrapContext string `json:"chip_wrap_context"`
	ChipWrapKey string `json:"chip_wrap_key"`
	ChipSealKey string `json:"chip_seal_key"`
	Contents    string `json:"backup_plaintext"`
	BackupAAD   string `json:"backup_gcm_aad"`
	Backup      string `json:"backup"`

	Confirm   string `json:"confirm_message"`
	Restored  string `json:"restored_message"`
	Published string `json:"published_message"`
	Locked    string `json:"locked_message"`
	PoolAAD   string `json:"pool_aad"`

	ManifestRefused string `json:"manifest_refused"`

	KeyFile       string `json:"key_file"`
	KeyFileSender string `json:"key_file_sender"`
	KeyFileSigned string `json:"key_file_statement"`

	kdf2Vectors
	waitingVectors
	transportVectors
}

type fixture struct {
	manifest   keypackage.Manifest
	claims     []byte
	claimsHash [32]byte
	hello      keypackage.Hello
	data       keypackage.DataPackage
	contents   keypackage.Contents
	backup     []byte
	secrets    []keypackage.Secret
	vectors    vectors
}

func point(t testing.TB, private []byte) (*ecdh.PrivateKey, statement.PublicKey) {
	t.Helper()
	k, err := ecdh.P256().NewPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	p, err := statement.ParsePoint(k.PublicKey().Bytes())
	if err != nil {
		t.Fatal(err)
	}
	return k, p
}

func newFixture(t testing.TB) fixture {
	t.Helper()
	must := func(b []byte, err error) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	x := hex.EncodeToString
	var v vectors
	id, err := identity.ParseIMEI("00440245000001")
	if err != nil {
		t.Fatal(err)
	}
	chip, err := identity.ParseChipID(sequence(0x10, 16))
	if err != nil {
		t.Fatal(err)
	}
	const realm, generation = identity.Development, 1

	master := sequence(0x00, 32)
	channel := keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}
	purposeContext := keypackage.PurposeContext(realm, 1, 1, "channel")
	purpose := kdf1(t, master, purposeContext)
	deviceContext := keypackage.DeviceKeyContext(realm, channel, id, generation, chip.RecordID())
	device := kdf1(t, purpose, deviceContext)
	drm := sequence(0x80, 32)
	_, pairPoint := point(t, sequence(0x21, 32))
	simLock := keypackage.Secret{Random: sequence(0x40, 32), Value: []byte("73318500")}
	commitment := keypackage.Commitment([32]byte(simLock.Random), simLock.Value)

	m := keypackage.Manifest{Realm: realm, Identity: id, ChipID: chip, Generation: generation}
	drmID := keypackage.KeyID{Name: "drm"}
	m.Entries = []keypackage.Entry{
		{Kind: keypackage.Communication, Key: channel, Algorithm: keypackage.HMACSHA256, Vouch: mac(device, keypackage.CheckMessage(m, channel))},
		{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: "tls"}, Algorithm: keypackage.ES256, Vouch: pairPoint.Point()},
		{Kind: keypackage.DRM, Key: drmID, Algorithm: keypackage.AES256GCM, Vouch: mac(drm, keypackage.CheckMessage(m, drmID))},
		{Kind: keypackage.SIMLock, Key: keypackage.KeyID{Name: "sim-lock"}, Algorithm: keypackage.None, Vouch: commitment[:]},
		{Kind: keypackage.Opaque, Key: keypackage.KeyID{Name: "region"}, Algorithm: keypackage.None, Clear: true, Vouch: []byte("EU")},
	}
	manifest := must(m.Encode())
	claims := must(identity.Claims{Subject: id, IssuedAt: 1700000000, ChipID: chip, Realm: realm, Generation: generation, Manifest: sha256.Sum256(manifest)}.Encode())
	claimsHash := sha256.Sum256(claims)

	d, pointD := point(t, sequence(0x61, 32))
	s, pointS := point(t, sequence(0xa1, 32))
	hello := keypackage.Hello{Realm: realm, Suite: keypackage.SuiteAttested, ChipID: chip, ROMKey: sha256.Sum256([]byte("ROM key")), Point: pointD}
	m1 := must(hello.Encode())
	transcript := keypackage.Transcript(m1, pointS.Point(), claims)
	agreed := must(s.ECDH(d.PublicKey()))
	kekContext := keypackage.TransferContext(hello.Suite, keypackage.TransferKEK, transcript)
	kek := kdf1(t, agreed, kekContext)
	packageKey := kdf1(t, agreed, keypackage.TransferContext(hello.Suite, keypackage.TransferPackage, transcript))
	// The private key is wrapped as 72 bytes; here they are not a PrivateKeyInfo,
	// since only the length is this package's business.
	pairInfo := sequence(0xb0, 72)
	secrets := []keypackage.Secret{simLock}
	secretsPlain := must(keypackage.EncodeSecrets(secrets))
	packageAAD := keypackage.SealedAAD(keypackage.PackageAAD(transcript))
	nonce := [12]byte(sequence(0xc0, 12))
	sealedSecrets := keypackage.Sealed{Nonce: nonce, Ciphertext: seal(t, packageKey, nonce, packageAAD, secretsPlain)}
	data := keypackage.DataPackage{
		Point: pointS, Certificate: []byte("stands for a certificate"), Manifest: manifest,
		Wrapped: [][]byte{wrap(t, kek, device), wrap(t, kek, pairInfo), wrap(t, kek, drm)}, Secrets: &sealedSecrets,
	}

	chipKey := sequence(0xe0, 32)
	wrapContext := keypackage.ChipContext(realm, keypackage.ChipWrap, claimsHash)
	chipWrap := kdf1(t, chipKey, wrapContext)
	chipSeal := kdf1(t, chipKey, keypackage.ChipContext(realm, keypackage.ChipSeal, claimsHash))
	contents := keypackage.Contents{Wrapped: [][]byte{wrap(t, chipWrap, device), wrap(t, chipWrap, pairInfo), wrap(t, chipWrap, drm)}, Secrets: secrets}
	contentsPlain := must(contents.Encode(m))
	backupAAD := keypackage.SealedAAD(keypackage.BackupAAD(claimsHash))
	nonce = [12]byte(sequence(0xd0, 12))
	backup := must(keypackage.Backup{Manifest: manifest, Sealed: keypackage.Sealed{Nonce: nonce, Ciphertext: seal(t, chipSeal, nonce, backupAAD, contentsPlain)}}.Encode())
	manifestHash, backupHash := sha256.Sum256(manifest), sha256.Sum256(backup)

	v = vectors{
		MasterKey: x(master), PurposeContext: x(purposeContext), PurposeKey: x(purpose), DeviceContext: x(deviceContext), DeviceKey: x(device),
		CheckMessage: x(keypackage.CheckMessage(m, channel)), CheckValue: x(m.Entries[0].Vouch), Commitment: x(commitment[:]),
		Manifest: x(manifest), ManifestHash: x(manifestHash[:]), Claims: x(claims), ClaimsHash: x(claimsHash[:]),
		PrivateD: x(d.Bytes()), PrivateS: x(s.Bytes()), Hello: x(m1), Transcript: x(transcript[:]), Agreed: x(agreed),
		KEKContext: x(kekContext), KEK: x(kek), PackageKey: x(packageKey), WrappedForD: x(data.Wrapped[0]),
		PackageAAD: x(packageAAD), Secrets: x(secretsPlain), SealedSecrets: x(sealedSecrets.Encode()),
		ChipKey: x(chipKey), WrapContext: x(wrapContext), ChipWrapKey: x(chipWrap), ChipSealKey: x(chipSeal),
		Contents: x(contentsPlain), BackupAAD: x(backupAAD), Backup: x(backup),
		Confirm:   x(keypackage.ConfirmMessage(transcript, backupHash)),
		Restored:  x(keypackage.RestoredMessage(claimsHash, backupHash, [32]byte(sequence(0xf0, 32)))),
		Published: x(keypackage.PublishedMessage(claimsHash)), Locked: x(keypackage.LockedMessage(claimsHash)),
		PoolAAD: x(keypackage.PoolAAD(realm, 1, id, "sim-lock")),
	}
	v.ManifestRefused = x(onePointTwice(t, m))
	file := []byte("020000000001,content,,aGVyZSBpcyBhIGJsb2I=\n")
	sender := newFixedSigner(t)
	v.KeyFile, v.KeyFileSender = x(file), x(sender.Public().Point())
	v.KeyFileSigned = x(must(keypackage.SignKeyFile(t.Context(), sender, keypackage.KeyFile{Realm: realm, Line: "meter", Hash: sha256.Sum256(file)})))
	v.kdf2Vectors = newKDF2Vectors(t, realm, master, id, generation, chip.RecordID())
	v.waitingVectors = newWaitingVectors(t, realm, id, drm)
	v.transportVectors = newTransportVectors(t, realm, id, drm)
	return fixture{manifest: m, claims: claims, claimsHash: claimsHash, hello: hello, data: data, contents: contents, backup: backup, secrets: secrets, vectors: v}
}

// onePointTwice gives a manifest whose signing and agreement keys are one, which nothing here encodes.
func onePointTwice(t testing.TB, m keypackage.Manifest) []byte {
	t.Helper()
	_, p := point(t, sequence(0x21, 32))
	_, q := point(t, sequence(0x31, 32))
	m.Entries = []keypackage.Entry{
		{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: "tls"}, Algorithm: keypackage.ES256, Vouch: p.Point()},
		{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: "message"}, Algorithm: keypackage.ECDH, Vouch: q.Point()},
	}
	b, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return bytes.Replace(b, q.Point(), p.Point(), 1)
}

// TestOnePointTwice: signing and key agreement are two keys.
func TestOnePointTwice(t *testing.T) {
	t.Parallel()
	m := newFixture(t).manifest
	b := onePointTwice(t, m)
	if _, err := keypackage.ParseManifest(b); err == nil || !strings.Contains(err.Error(), `"message" has the public key of "tls"`) {
		t.Errorf("read: %v", err)
	}
	_, p := point(t, sequence(0x21, 32))
	for _, name := range []string{"a", "b"} {
		m.Entries = append(m.Entries[:len(m.Entries):len(m.Entries)], keypackage.Entry{Kind: keypackage.KeyPair, Key: keypackage.KeyID{Name: name}, Algorithm: keypackage.ES256, Vouch: p.Point()})
	}
	if _, err := m.Encode(); err == nil {
		t.Error("encoded")
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	b, err := json.MarshalIndent(newFixture(t).vectors, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	b = append(b, '\n')
	if *update {
		if err := os.WriteFile("testdata/golden.json", b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), string(b)); diff != "" {
		t.Errorf("a format that can never change has changed (-was +is):\n%s", diff)
	}
}

// RFC 3394 §4.6: the wrap of these vectors is the standard's.
func TestWrapKnownAnswer(t *testing.T) {
	t.Parallel()
	key, _ := hex.DecodeString("00112233445566778899aabbccddeeff000102030405060708090a0b0c0d0e0f")
	want, _ := hex.DecodeString("28c9f404c4b810f4cbccb35cfb87f8263f5786e2d80ed326cbc7f0e71a99f43bfb988b9b7a02dd21")
	if got := wrap(t, sequence(0, 32), key); !bytes.Equal(got, want) {
		t.Errorf("%x, the RFC says %x", got, want)
	}
}

// RFC 4493 §4, example 2: the CMAC of these vectors is the standard's.
func TestCMACKnownAnswer(t *testing.T) {
	t.Parallel()
	key, _ := hex.DecodeString("2b7e151628aed2a6abf7158809cf4f3c")
	message, _ := hex.DecodeString("6bc1bee22e409f96e93d7e117393172a")
	if got := hex.EncodeToString(keypackagetest.CMAC(t, key, message)); got != "070a16b46b4d4144f79bdd9dd04a287c" {
		t.Errorf("%s", got)
	}
}
