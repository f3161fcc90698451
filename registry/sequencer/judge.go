package sequencer

import (
	"bytes"
	"crypto/sha256"
	"fmt"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/registry"
	"github.com/devicekeys/devicekeys/registry/store"
	"github.com/devicekeys/devicekeys/statement"
)

// candidate is an entry on its way in.
type candidate struct {
	entry   registry.Entry
	sealed  [sha256.Size]byte
	leaf    [sha256.Size]byte
	refused string // why it can't be taken as it is; "" while it may be
}

// inspect reads one entry of a submission and checks what needs no database.
func inspect(raw []byte, realm identity.Realm, keys []statement.PublicKey) candidate {
	e, err := registry.ParseEntry(raw)
	if err != nil {
		return candidate{refused: err.Error()}
	}
	c := candidate{entry: e, sealed: sha256.Sum256(e.Sealed)}
	c.leaf = registry.HashLeaf(e.LeafOver(c.sealed))
	switch {
	case e.Realm != realm:
		c.refused = fmt.Sprintf("the entry is of the %s realm and this registry of the %s one", e.Realm, realm)
	case e.Type.HasStatement():
		if err := checkStatement(e, keys); err != nil {
			c.refused = err.Error()
		}
	}
	return c
}

// checkStatement accepts a statement by any of the identity-signing keys.
func checkStatement(e registry.Entry, keys []statement.PublicKey) (err error) {
	for _, k := range keys {
		if err = e.CheckStatement(k); err == nil {
			return nil
		}
	}
	return err
}

// result is how an entry fared, as metrics name it.
type result string

const (
	durable   result = "durable"
	duplicate result = "duplicate" // the same entry stood already
	conflict  result = "conflict"  // another one stands in its place
	refused   result = "refused"
)

var results = []result{durable, duplicate, conflict, refused}

// verdict is the answer to one candidate.
type verdict struct {
	result   result
	sequence int64 // durable, duplicate
	leaf     [sha256.Size]byte
	reason   string // conflict, refused
}

// judge decides on candidates in order, each seeing those before it as if they
// stood. It has no effect: what is to be appended, from head on, is returned.
func judge(head int64, standing []store.Standing, candidates []candidate) (verdicts []verdict, add []store.New) {
	byRecord := map[identity.RecordID][]store.Standing{}
	for _, s := range standing {
		byRecord[s.Record] = append(byRecord[s.Record], s)
	}
	verdicts = make([]verdict, len(candidates))
	for i, c := range candidates {
		stands := byRecord[c.entry.Record]
		v := decide(stands, c)
		if v.result == durable {
			v.sequence = head + int64(len(add))
			add = append(add, store.New{Entry: c.entry, SealedHash: c.sealed, LeafHash: c.leaf})
			byRecord[c.entry.Record] = append(stands, store.Standing{
				Record: c.entry.Record, Generation: c.entry.Generation, Type: c.entry.Type, Sequence: v.sequence,
				SealedHash: c.sealed, LeafHash: c.leaf, Statement: c.entry.Statement,
			})
		}
		verdicts[i] = v
	}
	return verdicts, add
}

// decide judges one candidate against what stands of its record.
func decide(stands []store.Standing, c candidate) verdict {
	if c.refused != "" {
		return verdict{result: refused, reason: c.refused}
	}
	e := c.entry
	var newest identity.Generation // with a record
	known := false                 // a record of this generation stands
	for _, s := range stands {
		if s.Type == e.Type && s.Generation == e.Generation {
			if s.SealedHash == c.sealed && s.LeafHash == c.leaf && bytes.Equal(s.Statement, e.Statement) {
				return verdict{result: duplicate, sequence: s.Sequence, leaf: c.leaf}
			}
			return verdict{result: conflict, reason: fmt.Sprintf("another %s entry of generation %d stands at %d", e.Type, e.Generation, s.Sequence)}
		}
		if s.Type.HasRecord() {
			newest = max(newest, s.Generation)
			known = known || s.Generation == e.Generation
		}
	}
	no := func(format string, args ...any) verdict {
		return verdict{result: refused, reason: fmt.Sprintf(format, args...)}
	}
	switch e.Type {
	case registry.Register:
		if newest > 0 {
			return no("a record of generation %d stands: supersede it", newest)
		}
	case registry.Supersede:
		if newest == 0 {
			return no("no record stands that generation %d could supersede: register it", e.Generation)
		}
		if newest >= e.Generation {
			return no("a record of generation %d stands: generation %d can't supersede it", newest, e.Generation)
		}
	case registry.Scrap:
		if newest != e.Generation {
			return no("generation %d is not the newest that stands (%d)", e.Generation, newest)
		}
	case registry.Erase, registry.Certificates:
		if !known {
			return no("no record of generation %d stands", e.Generation)
		}
	}
	return verdict{result: durable, leaf: c.leaf}
}
