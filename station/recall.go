package station

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/devicekeys/devicekeys/identity"
)

// recall finds certificate and backup of the generation that was confirmed: in
// the journal, else in the flash, else at the SPP, which keeps both until the
// device is published and can have shown them to another station. What the SPP
// has decides: a page or a flash that differs from it is not used.
func (w *work) recall(ctx context.Context) error {
	if len(w.page.Backup) > 0 {
		return nil
	}
	var lost []string // why the places before were no use
	p, ok, err := w.line.Journal.read(w.page.Record)
	switch {
	case err == nil && !ok:
		lost = append(lost, "the journal has no page")
	case err == nil && p.Generation != w.page.Generation:
		// Of an earlier generation, which the next page replaces.
		lost = append(lost, fmt.Sprintf("the journal's page is of generation %d", p.Generation))
	case err == nil && w.fits(p.Certificate, p.Backup):
		w.page.Certificate, w.page.Backup, w.page.Since = p.Certificate, p.Backup, p.Since
		return nil
	default:
		if err == nil {
			err = fmt.Errorf("the journal's page of record %s is not what the SPP has confirmed", w.page.Record.Short())
		}
		if failed := w.putAside(ctx, w.page.Record, err); failed != nil {
			return failed
		}
		lost = append(lost, err.Error())
	}
	certificate, backup, err := w.device.Stored(ctx)
	if err == nil && w.fits(certificate, backup) {
		w.page.Certificate, w.page.Backup = certificate, backup
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err == nil {
		err = fmt.Errorf("the flash holds something else than what the SPP has confirmed")
	}
	lost = append(lost, err.Error())
	certificate, backup = w.status.GetCertificate(), w.status.GetBackup()
	if len(certificate) > 0 && len(backup) > 0 {
		w.note(ctx, "the device goes on with the SPP's copy of its backup: %s", strings.Join(lost, "; "))
		w.page.Certificate, w.page.Backup = certificate, backup
		return nil
	}
	return fmt.Errorf("the SPP has the device as %s, but neither the journal nor the flash has its backup, and the SPP shows none (%s): ask its operator to burn the device or, if it was in the field, to abandon the generation", w.status.GetState(), strings.Join(lost, "; "))
}

// fits tells whether certificate and backup are those that the SPP has, as far
// as it shows them.
func (w *work) fits(certificate, backup []byte) bool {
	if len(certificate) == 0 || len(backup) == 0 {
		return false
	}
	c, b := w.status.GetCertificate(), w.status.GetBackup()
	return (len(c) == 0 || bytes.Equal(c, certificate)) && (len(b) == 0 || bytes.Equal(b, backup))
}

// keep writes the device's page.
func (w *work) keep() error {
	w.page.Device = w.out.Device
	if w.page.Since.IsZero() {
		w.page.Since = time.Now().UTC().Truncate(time.Second)
	}
	if err := w.line.Journal.write(w.page); err != nil {
		return err
	}
	w.kept = true
	return nil
}

// drop removes a shipped device's page. One that does not read is kept aside:
// it may be another device's.
func (w *work) drop(ctx context.Context, record identity.RecordID) error {
	if _, _, err := w.line.Journal.read(record); err != nil {
		return w.putAside(ctx, record, err)
	}
	return w.line.Journal.remove(record)
}

// putAside moves a bad page out of the way and says so.
func (w *work) putAside(ctx context.Context, record identity.RecordID, bad error) error {
	where, err := w.line.Journal.setAside(record)
	if err != nil {
		return fmt.Errorf("%w; it could not be moved aside: %w", bad, err)
	}
	w.note(ctx, "%v; it was moved to %s", bad, where)
	return nil
}
