package keypackage_test

import (
	"crypto/ecdh"
	"crypto/sha256"
	"encoding/hex"
	"testing"

	"github.com/devicekeys/devicekeys/detcbor"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/keypackage/keypackagetest"
)

// kdf2Vectors are a device key's descent from the master key by KDF 2, as master version 2.
type kdf2Vectors struct {
	PurposeContext2 string `json:"kdf2_purpose_context"`
	PurposeKey2     string `json:"kdf2_purpose_key"`
	DeviceContext2  string `json:"kdf2_device_key_context"`
	DeviceKey2      string `json:"kdf2_device_key"`
}

func newKDF2Vectors(t testing.TB, realm identity.Realm, master []byte, id identity.Identity, g identity.Generation, record identity.RecordID) kdf2Vectors {
	t.Helper()
	channel := keypackage.KeyID{Name: "channel", KDF: 2, Version: 2}
	purposeContext := keypackage.PurposeContext(realm, channel.KDF, channel.Version, channel.Name)
	purpose := keypackagetest.KDF2(t, master, purposeContext)
	deviceContext := keypackage.DeviceKeyContext(realm, channel, id, g, record)
	x := hex.EncodeToString
	return kdf2Vectors{x(purposeContext), x(purpose), x(deviceContext), x(keypackagetest.KDF2(t, purpose, deviceContext))}
}

// waitingVectors are a symmetric key and a pair that wait in the pool, the pair as it is sealed too.
type waitingVectors struct {
	PoolWrap      string `json:"pool_wrap_key"`
	PoolPairWrap  string `json:"pool_pair_wrap_key"`
	PoolSeal      string `json:"pool_seal_key"`
	WaitingKey    string `json:"waiting_key"`
	WaitingPair   string `json:"waiting_pair"`
	WaitingSealed string `json:"waiting_pair_sealed"`
}

// privateKeyInfo is how the scalar of a pair is wrapped, 72 bytes, and its point.
func privateKeyInfo(t testing.TB, scalar []byte) (info, public []byte) {
	t.Helper()
	_, p := point(t, scalar)
	head, err := hex.DecodeString("3041020100301306072a8648ce3d020106082a8648ce3d030107042730250201010420")
	if err != nil {
		t.Fatal(err)
	}
	return append(append(head, scalar...), make([]byte, 5)...), p.Point()
}

func newWaitingVectors(t testing.TB, realm identity.Realm, id identity.Identity, symmetric []byte) waitingVectors {
	t.Helper()
	poolWrap, pairWrap, poolSeal := sequence(0x08, 32), sequence(0x18, 32), sequence(0x28, 32)
	key, err := keypackage.WaitingKey{Algorithm: keypackage.AES256GCM, Wrapped: wrap(t, poolWrap, symmetric)}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	info, public := privateKeyInfo(t, sequence(0x21, 32))
	pair, err := keypackage.WaitingKey{Algorithm: keypackage.ES256, Wrapped: wrap(t, pairWrap, info), Public: public, X509: []byte("stands for a certificate")}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	plaintext, err := detcbor.Marshal(keypackage.Secret{Random: sequence(0x38, 32), Value: pair})
	if err != nil {
		t.Fatal(err)
	}
	nonce := [12]byte(sequence(0x48, 12))
	aad := keypackage.SealedAAD(keypackage.PoolAAD(realm, 1, id, "tls"))
	x := hex.EncodeToString
	return waitingVectors{
		x(poolWrap), x(pairWrap), x(poolSeal), x(key), x(pair),
		x(keypackage.Sealed{Nonce: nonce, Ciphertext: seal(t, poolSeal, nonce, aad, plaintext)}.Encode()),
	}
}

// transportVectors are a symmetric key, a pair and a secret that is no key on their way to a transport key.
type transportVectors struct {
	Recipient     string `json:"transport_private"`
	Ephemeral     string `json:"transport_ephemeral"`
	Label         string `json:"transport_label"`
	Context       string `json:"transport_kek_context"`
	KEK           string `json:"transport_kek"`
	Blob          string `json:"transport_blob"`
	PairLabel     string `json:"transport_pair_label"`
	PairBlob      string `json:"transport_pair_blob"`
	SecretContext string `json:"transport_secret_context"`
	SecretKey     string `json:"transport_secret_key"`
	Secret        string `json:"transport_secret"`
}

func newTransportVectors(t testing.TB, realm identity.Realm, id identity.Identity, symmetric []byte) transportVectors {
	t.Helper()
	own, recipient := point(t, sequence(0x51, 32))
	ephemeral, e := point(t, sequence(0x71, 32))
	agreed, err := ephemeral.ECDH(own.Public().(*ecdh.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	send := func(label string, key []byte) (context, kek, blob []byte) {
		context = detcbor.Array("dk-transport", 1, realm, recipient.Point(), e.Point(), label)
		kek = kdf1(t, agreed, context)
		b := keypackage.TransportBlob{Realm: realm, Recipient: sha256.Sum256(recipient.Point()), Point: e.Point(), Label: label, Wrapped: wrap(t, kek, key)}
		return context, kek, b.Encode()
	}
	label, pairLabel := "device "+id.URN()+" drm", "device "+id.URN()+" tls"
	context, kek, blob := send(label, symmetric)
	info, _ := privateKeyInfo(t, sequence(0x21, 32))
	_, _, pairBlob := send(pairLabel, info)
	for _, b := range [][]byte{blob, pairBlob} {
		if _, err := keypackage.ParseTransportBlob(b); err != nil {
			t.Fatal(err)
		}
	}
	// The SIM-lock code.
	secretLabel := keypackage.DeviceSecretLabel(id, "sim-lock")
	about := keypackage.TransportSecretContext(realm, recipient.Point(), e.Point(), secretLabel)
	key, nonce := kdf1(t, agreed, about), [12]byte(sequence(0xa0, 12))
	secret := keypackage.TransportSecret{Realm: realm, Recipient: sha256.Sum256(recipient.Point()), Point: e.Point(), Label: secretLabel,
		Sealed: keypackage.Sealed{Nonce: nonce, Ciphertext: seal(t, key, nonce, keypackage.SealedAAD(about), []byte("73318500"))}}.Encode()
	if _, err := keypackage.ParseTransportSecret(secret); err != nil {
		t.Fatal(err)
	}
	x := hex.EncodeToString
	return transportVectors{x(own.Bytes()), x(ephemeral.Bytes()), x([]byte(label)), x(context), x(kek), x(blob), x([]byte(pairLabel)), x(pairBlob),
		x(about), x(key), x(secret)}
}
