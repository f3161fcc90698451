package keypackage_test

import (
	"bytes"
	"reflect"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"github.com/devicekeys/devicekeys/detcbor/detcbortest"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/statement"
)

// Whatever is put into an artefact comes back from its bytes, and what of them
// was changed is refused or is another artefact's one encoding.

func drawBytes(t *rapid.T, name string, least, most int) []byte {
	return rapid.SliceOfN(rapid.Byte(), least, most).Draw(t, name)
}

func drawChip(t *rapid.T) identity.ChipID {
	b := drawBytes(t, "chip ID", 32, 32)[:rapid.SampledFrom([]int{16, 24, 32}).Draw(t, "chip ID's length")]
	b[0] |= 1 // not all zero
	c, err := identity.ParseChipID(b)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func drawIdentity(t *rapid.T) identity.Identity {
	text := map[identity.Type]string{
		identity.TypeIMEI:   `[0-9]{14}`,
		identity.TypeEUI48:  `[0-9a-f][02468ace][0-9a-f]{9}1`,
		identity.TypeEUI64:  `[0-9a-f][02468ace][0-9a-f]{4}0[0-9a-f]{8}1`,
		identity.TypeSerial: `[1-9][0-9]{0,9}-[A-Z0-9.]{1,32}`,
	}
	kind := rapid.SampledFrom([]identity.Type{identity.TypeIMEI, identity.TypeEUI48, identity.TypeEUI64, identity.TypeSerial}).Draw(t, "type")
	id, err := identity.FromValue(kind, rapid.StringMatching(text[kind]).Draw(t, "identity"))
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func drawRealm(t *rapid.T) identity.Realm {
	return rapid.SampledFrom([]identity.Realm{identity.Development, identity.Production}).Draw(t, "realm")
}

func drawGeneration(t *rapid.T) identity.Generation {
	return identity.Generation(rapid.Uint32Range(1, 1<<32-1).Draw(t, "generation"))
}

func names() *rapid.Generator[string] { return rapid.StringMatching(`[a-z0-9-]{1,32}`) }

func drawManifest(t *rapid.T, points []statement.PublicKey) keypackage.Manifest {
	m := keypackage.Manifest{Realm: drawRealm(t), Identity: drawIdentity(t), ChipID: drawChip(t), Generation: drawGeneration(t)}
	first := rapid.IntRange(0, len(points)-1).Draw(t, "point")
	for i, name := range rapid.SliceOfNDistinct(names(), 1, len(points), rapid.ID).Draw(t, "names") {
		e := keypackage.Entry{Key: keypackage.KeyID{Name: name}, Algorithm: keypackage.None, Vouch: drawBytes(t, "vouch", 32, 32)}
		switch rapid.IntRange(0, 4).Draw(t, "form") {
		case 0:
			e.Kind, e.Algorithm = keypackage.Communication, keypackage.HMACSHA256
			e.Key.KDF, e.Key.Version = rapid.Uint8Range(1, 2).Draw(t, "kdf"), rapid.Uint32Min(1).Draw(t, "version")
		case 1:
			e.Kind, e.Algorithm, e.Vouch = keypackage.KeyPair, keypackage.ES256, points[(first+i)%len(points)].Point() // each once
		case 2:
			e.Kind, e.Algorithm = keypackage.DRM, keypackage.AES256GCM
		case 3:
			e.Kind = keypackage.SIMLock
		case 4:
			e.Kind, e.Clear, e.Vouch = keypackage.Opaque, true, drawBytes(t, "value", 1, 40)
		}
		m.Entries = append(m.Entries, e)
	}
	return m
}

func drawSealed(t *rapid.T) keypackage.Sealed {
	return keypackage.Sealed{Nonce: [12]byte(drawBytes(t, "nonce", 12, 12)), Ciphertext: drawBytes(t, "ciphertext", 16, 80)}
}

func somePoints(t testing.TB) []statement.PublicKey {
	var all []statement.PublicKey
	for i := range 6 {
		_, p := point(t, sequence(byte(1+0x20*i), 32))
		all = append(all, p)
	}
	return all
}

// reads says how one kind of artefact is read and written again.
func reads[T any](t *rapid.T, parse func([]byte) (T, error), write func(T) ([]byte, error)) func([]byte) ([]byte, error) {
	return func(b []byte) ([]byte, error) {
		v, err := parse(b)
		if err != nil {
			return nil, err
		}
		again, err := write(v)
		if err != nil {
			t.Fatalf("%x was read and can't be written: %v", b, err)
		}
		return again, nil
	}
}

func TestOneEncoding(t *testing.T) {
	t.Parallel()
	points, signer := somePoints(t), newFixedSigner(t)
	encoded := func(t *rapid.T, b []byte, err error) []byte {
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for name, check := range map[string]func(*rapid.T){
		"manifest": func(t *rapid.T) {
			b, err := drawManifest(t, points).Encode()
			detcbortest.OneEncoding(t, "manifest", encoded(t, b, err), reads(t, keypackage.ParseManifest, keypackage.Manifest.Encode))
		},
		"hello": func(t *rapid.T) {
			h := keypackage.Hello{Realm: drawRealm(t), Suite: keypackage.Suite(rapid.IntRange(1, 2).Draw(t, "suite")), ChipID: drawChip(t),
				ROMKey: [32]byte(drawBytes(t, "ROM key", 32, 32)), Point: rapid.SampledFrom(points).Draw(t, "point")}
			b, err := h.Encode()
			detcbortest.OneEncoding(t, "hello", encoded(t, b, err), reads(t, keypackage.ParseHello, keypackage.Hello.Encode))
		},
		"data package": func(t *rapid.T) {
			p := keypackage.DataPackage{Point: rapid.SampledFrom(points).Draw(t, "point"), Certificate: drawBytes(t, "certificate", 1, 300),
				Manifest: drawBytes(t, "manifest", 1, 300), Wrapped: rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 80), 0, 3).Draw(t, "wrapped")}
			if rapid.Bool().Draw(t, "secrets") {
				s := drawSealed(t)
				p.Secrets = &s
			}
			b, err := p.Encode()
			detcbortest.OneEncoding(t, "data package", encoded(t, b, err), reads(t, keypackage.ParseDataPackage, keypackage.DataPackage.Encode))
		},
		"backup": func(t *rapid.T) {
			b, err := keypackage.Backup{Manifest: drawBytes(t, "manifest", 1, 300), Sealed: drawSealed(t)}.Encode()
			detcbortest.OneEncoding(t, "backup", encoded(t, b, err), reads(t, keypackage.ParseBackup, keypackage.Backup.Encode))
		},
		"sealed": func(t *rapid.T) {
			detcbortest.OneEncoding(t, "sealed", drawSealed(t).Encode(), reads(t,
				func(b []byte) (keypackage.Sealed, error) { return keypackage.ParseSealed(b, 1<<10) },
				func(s keypackage.Sealed) ([]byte, error) { return s.Encode(), nil }))
		},
		"contents": func(t *rapid.T) {
			m := drawManifest(t, points)
			var c keypackage.Contents
			for _, i := range m.Wrapped() {
				c.Wrapped = append(c.Wrapped, drawBytes(t, "wrapped", m.Entries[i].WrappedSize(), m.Entries[i].WrappedSize()))
			}
			for _, i := range m.Secrets() {
				s := keypackage.Secret{Random: drawBytes(t, "random", 32, 32), Value: drawBytes(t, "secret", 1, 40)}
				h := keypackage.Commitment([32]byte(s.Random), s.Value)
				m.Entries[i].Vouch = h[:]
				c.Secrets = append(c.Secrets, s)
			}
			b, err := c.Encode(m)
			detcbortest.OneEncoding(t, "contents", encoded(t, b, err), reads(t,
				func(b []byte) (keypackage.Contents, error) { return keypackage.ParseContents(b, m) },
				func(c keypackage.Contents) ([]byte, error) { return c.Encode(m) }))
		},
		"delivery list": func(t *rapid.T) {
			l := keypackage.DeliveryList{Realm: drawRealm(t), Maker: names().Draw(t, "maker"), Lot: names().Draw(t, "lot")}
			for i := range rapid.IntRange(0, 3).Draw(t, "chips") {
				l.Chips = append(l.Chips, keypackage.DeliveredChip{Record: drawChip(t).RecordID(), Attestation: points[i]})
			}
			raw, err := keypackage.SignDeliveryList(t.Context(), signer, l)
			if err != nil {
				t.Skip("a chip stands twice") // the same chip ID was drawn
			}
			payload, err := statement.Open(raw, statement.DeliveryList, signer.Public(), keypackage.MaxDeliveryList)
			// The signature would hide what the list itself takes: the payload is
			// spoilt and signed.
			detcbortest.OneEncoding(t, "delivery list", encoded(t, payload, err), func(b []byte) ([]byte, error) {
				raw, err := statement.Sign(t.Context(), signer, statement.DeliveryList, b)
				if err != nil {
					return nil, err
				}
				l, err := keypackage.ParseDeliveryList(raw, signer.Public())
				if err != nil {
					return nil, err
				}
				again, err := keypackage.SignDeliveryList(t.Context(), signer, l)
				if err != nil {
					t.Fatalf("%x was read and can't be written: %v", b, err)
				}
				return statement.Open(again, statement.DeliveryList, signer.Public(), keypackage.MaxDeliveryList)
			})
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, check)
		})
	}
}

// inputs is all that any context or message is made of.
type inputs struct {
	Realm      identity.Realm
	Suite      keypackage.Suite
	Key        keypackage.KeyID
	ID         identity.Identity
	Chip       identity.ChipID
	Generation identity.Generation
	Batch      int64
	A, B, C    [32]byte // hashes and challenges
}

func drawInputs(t *rapid.T) inputs {
	hash := func(name string) [32]byte { return [32]byte(drawBytes(t, name, 32, 32)) }
	return inputs{
		Realm: drawRealm(t), Suite: keypackage.Suite(rapid.IntRange(1, 2).Draw(t, "suite")),
		Key: keypackage.KeyID{Name: names().Draw(t, "name"), KDF: rapid.Uint8Range(1, 2).Draw(t, "kdf"), Version: rapid.Uint32Min(1).Draw(t, "version")},
		ID:  drawIdentity(t), Chip: drawChip(t), Generation: drawGeneration(t), Batch: rapid.Int64Min(1).Draw(t, "batch"),
		A: hash("A"), B: hash("B"), C: hash("C"),
	}
}

// contexts are all strings that are derived under, authenticated or bound, and
// for each the inputs that it must tell apart.
var contexts = map[string]struct {
	make  func(inputs) []byte
	bound []string
}{
	"purpose": {func(i inputs) []byte { return keypackage.PurposeContext(i.Realm, i.Key.KDF, i.Key.Version, i.Key.Name) }, []string{"Realm", "Key"}},
	"device key": {func(i inputs) []byte {
		return keypackage.DeviceKeyContext(i.Realm, i.Key, i.ID, i.Generation, i.Chip.RecordID())
	}, []string{"Realm", "Key", "ID", "Generation", "Chip"}},
	"check": {func(i inputs) []byte {
		return keypackage.CheckMessage(keypackage.Manifest{Realm: i.Realm, Identity: i.ID, ChipID: i.Chip, Generation: i.Generation}, i.Key)
	}, []string{"Realm", "Key", "ID", "Generation", "Chip"}},
	"chip wrap":      {func(i inputs) []byte { return keypackage.ChipContext(i.Realm, keypackage.ChipWrap, i.A) }, []string{"Realm", "A"}},
	"chip seal":      {func(i inputs) []byte { return keypackage.ChipContext(i.Realm, keypackage.ChipSeal, i.A) }, []string{"Realm", "A"}},
	"transfer kek":   {func(i inputs) []byte { return keypackage.TransferContext(i.Suite, keypackage.TransferKEK, i.A) }, []string{"Suite", "A"}},
	"transfer pkg":   {func(i inputs) []byte { return keypackage.TransferContext(i.Suite, keypackage.TransferPackage, i.A) }, []string{"Suite", "A"}},
	"package AAD":    {func(i inputs) []byte { return keypackage.PackageAAD(i.A) }, []string{"A"}},
	"backup AAD":     {func(i inputs) []byte { return keypackage.BackupAAD(i.A) }, []string{"A"}},
	"pool AAD":       {func(i inputs) []byte { return keypackage.PoolAAD(i.Realm, i.Batch, i.ID, i.Key.Name) }, []string{"Realm", "Batch", "ID", "Name"}},
	"confirm":        {func(i inputs) []byte { return keypackage.ConfirmMessage(i.A, i.B) }, []string{"A", "B"}},
	"restored":       {func(i inputs) []byte { return keypackage.RestoredMessage(i.A, i.B, i.C) }, []string{"A", "B", "C"}},
	"published":      {func(i inputs) []byte { return keypackage.PublishedMessage(i.A) }, []string{"A"}},
	"locked":         {func(i inputs) []byte { return keypackage.LockedMessage(i.A) }, []string{"A"}},
	"alive":          {func(i inputs) []byte { return keypackage.AliveMessage(i.A, i.C) }, []string{"A", "C"}},
	"sealed package": {func(i inputs) []byte { return keypackage.SealedAAD(keypackage.PackageAAD(i.A)) }, []string{"A"}},
}

// pairs are kinds of one label: their third or fourth item tells them apart.
var pairs = map[string]string{"chip seal": "chip wrap", "transfer pkg": "transfer kek"}

// field gives an input by its name.
func (i inputs) field(name string) any {
	if name == "Name" {
		return i.Key.Name
	}
	return reflect.ValueOf(i).FieldByName(name).Interface()
}

// TestContextsInjective: a context tells apart whatever of its inputs differs,
// be it one of them alone, and depends on nothing else.
func TestContextsInjective(t *testing.T) {
	t.Parallel()
	for name, c := range contexts {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			rapid.Check(t, func(t *rapid.T) {
				a := drawInputs(t)
				b := a
				// Each input is another one or the same: mostly, only one differs.
				other := drawInputs(t)
				from, to := reflect.ValueOf(other), reflect.ValueOf(&b).Elem()
				few := rapid.SliceOfN(rapid.IntRange(0, to.NumField()-1), 1, 2).Draw(t, "differ")
				for _, i := range few {
					to.Field(i).Set(from.Field(i))
				}
				differs := slices.ContainsFunc(c.bound, func(f string) bool { return a.field(f) != b.field(f) })
				if x, y := c.make(a), c.make(b); bytes.Equal(x, y) == differs {
					t.Fatalf("%s of\n%+v\nand\n%+v: %x and %x", name, a, b, x, y)
				}
			})
		})
	}
}

// TestContextsApart: contexts and messages of different purposes are different
// bytes, whatever each is made of; none begins another; and no two have a label
// in common but those of one key's two uses.
func TestContextsApart(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		all := map[string][]byte{}
		for name, c := range contexts {
			all[name] = c.make(drawInputs(t))
		}
		for second, first := range pairs {
			if bytes.Equal(all[first], all[second]) || bytes.HasPrefix(all[first], all[second]) || bytes.HasPrefix(all[second], all[first]) {
				t.Fatalf("%s %x and %s %x", first, all[first], second, all[second])
			}
			delete(all, second)
		}
		detcbortest.Distinct(t, all)
	})
}

// TestTranscriptInjective: what is hashed into a transcript can be taken apart
// again, so different parts are different bytes.
func TestTranscriptInjective(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		part := func(name string) []byte { return drawBytes(t, name, 0, 40) }
		a, b := [][]byte{part("a1"), part("a2"), part("a3")}, [][]byte{part("b1"), part("b2"), part("b3")}
		// The hard case: the same bytes, cut elsewhere.
		if rapid.Bool().Draw(t, "cut elsewhere") {
			whole := append([]byte{}, slices.Concat(a...)...) // an empty one, not nil, which is null
			i := rapid.IntRange(0, len(whole)).Draw(t, "first cut")
			j := rapid.IntRange(i, len(whole)).Draw(t, "second cut")
			b = [][]byte{whole[:i], whole[i:j], whole[j:]}
		}
		equal := slices.EqualFunc(a, b, bytes.Equal)
		if (keypackage.Transcript(a[0], a[1], a[2]) == keypackage.Transcript(b[0], b[1], b[2])) != equal {
			t.Fatalf("%x and %x", a, b)
		}
		// The commitment is not CBOR: its random bytes have one length.
		r, s := [32]byte(drawBytes(t, "r", 32, 32)), [32]byte(drawBytes(t, "s", 32, 32))
		if (keypackage.Commitment(r, a[0]) == keypackage.Commitment(s, b[0])) != (r == s && bytes.Equal(a[0], b[0])) {
			t.Fatalf("%x %x and %x %x", r, a[0], s, b[0])
		}
	})
}
