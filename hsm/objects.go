package hsm

import (
	"sync"

	"github.com/miekg/pkcs11"
)

// objectLocks keep a change of a token's lasting objects apart from other changes and
// from searches in the same token. PKCS#11 asks nothing of the kind, but SoftHSM, whose
// threads lose the file locks of an object when another thread looks into its file,
// breaks a key generation off with CKR_GENERAL_ERROR or CKR_TEMPLATE_INCONSISTENT when
// somebody searches meanwhile, every fourth time or so. Uses of keys, and session objects,
// which is what work in bulk is made of, need no lock and get none.
//
// A lock is held during one call into the module, and bounded as that is. Processes don't
// disturb each other so: their file locks are apart.
type objectLocks struct {
	slots    sync.Map // uint -> *sync.RWMutex
	sessions sync.Map // pkcs11.SessionHandle -> *sync.RWMutex, that of the session's slot
}

// ofSlot is the lock of a slot's token.
func (l *objectLocks) ofSlot(slot uint) *sync.RWMutex {
	lock, _ := l.slots.LoadOrStore(slot, new(sync.RWMutex))
	return lock.(*sync.RWMutex)
}

// opened notes which slot a session is of.
func (l *objectLocks) opened(s pkcs11.SessionHandle, slot uint) { l.sessions.Store(s, l.ofSlot(slot)) }

func (l *objectLocks) closed(s pkcs11.SessionHandle) { l.sessions.Delete(s) }

// finalized forgets all sessions: their handles mean nothing any more.
func (l *objectLocks) finalized() { l.sessions.Clear() }

// search takes the lock of the session's token for a search and returns what lets it go.
func (l *objectLocks) search(s pkcs11.SessionHandle) (unlock func()) {
	lock, ok := l.sessions.Load(s)
	if !ok { // closed behind our back; the module will say so
		return func() {}
	}
	lock.(*sync.RWMutex).RLock()
	return lock.(*sync.RWMutex).RUnlock
}

// change takes it for a change, if one is meant: lasting tells whether the object is the
// token's and not the session's.
func (l *objectLocks) change(s pkcs11.SessionHandle, lasting bool) (unlock func()) {
	lock, ok := l.sessions.Load(s)
	if !lasting || !ok {
		return func() {}
	}
	lock.(*sync.RWMutex).Lock()
	return lock.(*sync.RWMutex).Unlock
}

// lasting tells whether a template is that of a token object.
func lasting(template []*pkcs11.Attribute) bool {
	for _, a := range template {
		if a.Type == pkcs11.CKA_TOKEN {
			return len(a.Value) == 1 && a.Value[0] != 0
		}
	}
	return false
}
