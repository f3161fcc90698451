package provisioning

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"maps"
	"time"

	"github.com/devicekeys/devicekeys/provisioning/records"
)

// incidentTimeout bounds writing an incident, which is done even where the
// call's own time is over: the refusal stands without it.
const incidentTimeout = 3 * time.Second

// facts are an incident's, by name: what was expected and what came, as SHA-256
// in hexadecimal of what travels openly. Never a chip ID, a MAC or a key.
type facts map[string]string

// digest is how a fact names bytes.
func digest(b []byte) string {
	h := sha256.Sum256(b)
	return hex.EncodeToString(h[:])
}

// incident keeps what should not have happened, for people. The call is refused
// whether or not that works; then the log has it alone. Doing it twice tells
// it twice. step is the call in which it was seen.
func (a *Assembly) incident(ctx context.Context, s Station, id deviceID, code Code, step, detail string, f facts) {
	all := facts{"step": step}
	if s.Serial != "" {
		all["certificate"] = s.Serial
	}
	maps.Copy(all, f)
	a.metrics.incidents.WithLabelValues(string(code)).Inc()
	a.log.WarnContext(ctx, "incident", "kind", string(code), "record", id.Record.Short(), "generation", id.Generation,
		"line", s.Line, "station", s.Station, "detail", detail, "facts", all)
	bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), incidentTimeout)
	defer cancel()
	err := a.records.Incident(bound, records.Incident{
		Kind: string(code), Record: id.Record, Generation: id.Generation, Line: s.Line, Station: s.Station, Detail: detail, Facts: all,
	})
	if err != nil {
		a.log.ErrorContext(ctx, "an incident was not recorded", "kind", string(code), "record", id.Record.Short(), "error", err)
	}
}

// conflict keeps the incident that belongs to every CodeConflict and gives the
// refusal.
func (a *Assembly) conflict(ctx context.Context, s Station, id deviceID, step, detail string, f facts, next, text string, args ...any) *Refusal {
	a.incident(ctx, s, id, CodeConflict, step, detail, f)
	return refuse(CodeConflict, next, text, args...)
}
