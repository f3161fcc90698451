package check

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/audit"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/registry"
)

// licences is what the audit log allowed, by what it is compared with.
type licences struct {
	assembled    map[deviceID]licence
	keys         map[deviceID]int64 // entries that licensed a device's keys
	unlocked     map[deviceID]bool
	certificates map[string]bool              // by serial number, as audit.SerialText spells it: those of every CA
	advance      map[string]bool              // those made in advance, with the device CA's key
	made         map[deviceID]map[string]bool // those made for one device
	registry     map[deviceID]bool
	orders       map[int64]audit.Event // by their place
}

type licence struct {
	seq int64
	at  time.Time
}

// auditLog checks invariant 5: the log is whole, its signed heads lie on it, and
// what the rows say was done had been licensed. Rows are read before the log.
func (c *checker) auditLog(ctx context.Context) {
	var unlocks []records.Unlock
	if err := c.Records.EachUnlock(ctx, func(u records.Unlock) error {
		c.unlockForm(u)
		unlocks = append(unlocks, u)
		return nil
	}); err != nil {
		c.unread(Audited, err)
	}
	// What the log has after this head may be of orders that were given since.
	until, err := c.Audit.Head(ctx)
	if err != nil {
		c.unread(Audited, err)
		return
	}
	given, known := c.ordered(ctx)
	l, ok := c.readLog(ctx)
	if !ok {
		return
	}
	if known {
		c.logged(given, l.orders, until.Seq)
	}
	for _, d := range c.devices {
		c.checked(Audited, 1)
		where := rows(deviceRow(d.Record, d.Generation), entryRow(d.licence))
		a, found := l.assembled[d.deviceID]
		switch {
		case !found || a.seq != d.licence:
			c.violated(Audited, d.Record, where, "no entry of kind %q licensed this generation at the place that the row names: keys were used unlicensed, or the row was changed", audit.Assemble)
		case !d.packaged.IsZero() && a.at.After(d.packaged):
			c.violated(Audited, d.Record, where, "the entry is from %s, after the package was made at %s: keys were used before they were licensed, or the server's clock was set back",
				a.at.UTC().Format(time.RFC3339Nano), d.packaged.UTC().Format(time.RFC3339Nano))
		case l.keys[d.deviceID] < d.uses:
			c.violated(Audited, d.Record, where, "%d entries licensed the device's keys, the row counts %d uses: entries are missing, or the row was changed", l.keys[d.deviceID], d.uses)
		}
	}
	for _, u := range unlocks {
		c.checked(Audited, 1)
		if !l.unlocked[deviceID{u.Record, u.Next}] {
			c.violated(Audited, u.Record, rows(fmt.Sprintf("records.unlock %s/%d", u.Record.Short(), u.Next)),
				"no entry licensed this unlock statement: it was signed unlicensed, or another device's row was changed")
		}
	}
	for _, n := range c.signed {
		c.checked(Audited, 1)
		if !l.registry[n.deviceID] {
			c.violated(Audited, n.Record, rows(noticeRow(n.Record, n.Generation)), "no entry licensed the statement of this %s notice: the identity-signing key was used unlicensed, or the notice is another device's", registry.EntryType(n.kind))
		}
	}
	c.licensedCertificates(l)
	for _, cert := range c.Certificates {
		c.checked(Audited, 1)
		if serial := audit.SerialText(cert.SerialNumber); !l.certificates[serial] {
			c.violated(Audited, identity.RecordID{}, rows(fmt.Sprintf("certificate %s, %s", serial, cert.Subject)),
				"no entry licensed this certificate: the CA key was used unlicensed, or the certificate is not of this maker")
		}
	}
}

// readLog verifies the log and indexes it. ok is false where it could not be read to its end.
func (c *checker) readLog(ctx context.Context) (l licences, ok bool) {
	l = licences{assembled: map[deviceID]licence{}, keys: map[deviceID]int64{}, unlocked: map[deviceID]bool{}, registry: map[deviceID]bool{}, orders: map[int64]audit.Event{},
		certificates: map[string]bool{}, advance: map[string]bool{}, made: map[deviceID]map[string]bool{}}
	var heads []audit.Head
	if !c.AuditKey.IsZero() {
		var err error
		if heads, err = c.Audit.Heads(ctx, c.AuditKey); errors.Is(err, audit.ErrBroken) {
			c.violated(Audited, identity.RecordID{}, rows("records.audit_signed_head"), "%v", err)
		} else if err != nil {
			c.unread(Audited, err)
		}
	}
	if c.From.Seq > 0 {
		heads = append(heads, c.From) // the whole log is read: it must lead through what was kept
	}
	c.checked(Audited, int64(len(heads)))
	end, err := c.Audit.Verify(ctx, audit.Head{}, heads, func(e audit.Entry) error {
		c.checked(Audited, 1)
		d := deviceID{e.Record, e.Generation}
		switch e.Kind {
		case audit.Assemble:
			if _, twice := l.assembled[d]; !twice {
				l.assembled[d] = licence{e.Seq, e.At}
			}
			l.keys[d]++
		case audit.DeviceKey:
			l.keys[d]++
		case audit.Unlock:
			l.unlocked[d] = true
		case audit.Registry:
			l.registry[d] = true
		case audit.Order:
			l.orders[e.Seq] = e.Event
		}
		for _, serial := range e.Serials() {
			l.certificates[serial] = true
			switch {
			case e.Kind != audit.Certify:
				if l.made[d] == nil {
					l.made[d] = map[string]bool{}
				}
				l.made[d][serial] = true
			case isDeviceCA(c.Realm, e.Key) && !strings.HasPrefix(e.Note, "certificate "): // that is of the CA's own certificate
				l.advance[serial] = true
			}
		}
		return nil
	})
	c.report.AuditHead = end
	switch {
	case errors.Is(err, audit.ErrBroken):
		c.violated(Audited, identity.RecordID{}, rows(entryRow(end.Seq+1)), "%v", err)
		return l, false
	case err != nil:
		c.unread(Audited, err)
		return l, false
	}
	return l, true
}
