package provisioning

import (
	"context"
	"errors"
	"net/http"
	"strconv"
	"time"

	"connectrpc.com/connect"

	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	provisioningrpc "github.com/devicekeys/devicekeys/provisioning/rpc"
)

const (
	// maxRequest bounds a request, in bytes: the largest is a backup.
	maxRequest = keypackage.MaxPackage + 4096

	// neverCompress is above any answer's size, in bytes: answers are ciphertext,
	// signatures and MACs, which gzip makes longer at the price of a few percent
	// of the SPP's time.
	neverCompress = 1 << 30

	// callTimeout bounds what a call may take inside, whatever deadline the
	// station sent: HSM and databases answer in milliseconds. Publish, which
	// waits, has publishWait more.
	callTimeout = 10 * time.Second
)

// Service is the thin layer between stations and Assembly: it converts,
// bounds, measures, and turns refusals into RPC errors.
type Service struct {
	assembly *Assembly
}

var _ provisioningrpc.AssemblyServiceHandler = (*Service)(nil)

// NewHandler gives the service's path and handler, which answers stations with
// a certificate and nobody else. It speaks Connect, gRPC and gRPC-Web.
func NewHandler(a *Assembly) (path string, h http.Handler) {
	path, h = provisioningrpc.NewAssemblyServiceHandler(&Service{a}, connect.WithReadMaxBytes(maxRequest), connect.WithCompressMinBytes(neverCompress))
	return path, a.requireStation(h)
}

// call runs one step for the calling station.
func call[Req, Res any](ctx context.Context, a *Assembly, name string, limit time.Duration, req *connect.Request[Req],
	step func(ctx context.Context, s Station, m *Req) (*Res, error)) (*connect.Response[Res], error) {
	begun := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	res, err := func() (*Res, error) {
		s, ok := StationFrom(ctx)
		if !ok {
			return nil, refuse(CodeStation, "connect with the station's certificate", "the caller showed no certificate")
		}
		return step(ctx, s, req.Msg)
	}()
	var r *Refusal
	if err != nil {
		r = trouble(ctx, err)
		a.logRefusal(ctx, name, r)
		err = r
	}
	a.metrics.step(name, begun, err)
	if r != nil {
		return nil, rpcError(r)
	}
	return connect.NewResponse(res), nil
}

// logRefusal logs what the station is not told. Refusals of a request are the
// station's business and logged for debugging only.
func (a *Assembly) logRefusal(ctx context.Context, step string, r *Refusal) {
	s, _ := StationFrom(ctx)
	switch {
	case r.code == CodeInternal:
		a.log.ErrorContext(ctx, "a call failed", "step", step, "station", s.Station, "error", r.err)
	case r.code == CodePublication, r.code == CodeStopping, errors.As(r.err, new(*openError)):
		a.log.DebugContext(ctx, "a call has to wait", "step", step, "station", s.Station, "code", string(r.code))
	case r.retry > 0:
		a.log.WarnContext(ctx, "a call could not be carried out", "step", step, "station", s.Station, "code", string(r.code), "error", r.err)
	default:
		a.log.InfoContext(ctx, "a call was refused", "step", step, "station", s.Station, "code", string(r.code), "reason", r.text, "error", r.err)
	}
}

// classes sorts codes into those of RPC.
var classes = map[Code]connect.Code{
	CodeMalformed: connect.CodeInvalidArgument, CodeChipIDLength: connect.CodeInvalidArgument,
	CodeBackupCode: connect.CodeInvalidArgument, CodeManifest: connect.CodeInvalidArgument,

	CodeStation: connect.CodePermissionDenied, CodeExpired: connect.CodePermissionDenied, CodeRevoked: connect.CodePermissionDenied,
	CodeContested: connect.CodePermissionDenied, CodeLine: connect.CodePermissionDenied, CodeTACRange: connect.CodePermissionDenied,
	CodeUnlistedChip: connect.CodePermissionDenied, CodeAttestation: connect.CodePermissionDenied, CodeUnattested: connect.CodePermissionDenied,
	CodeMAC: connect.CodePermissionDenied,

	CodeOtherRealm: connect.CodeFailedPrecondition, CodeROMKey: connect.CodeFailedPrecondition, CodeState: connect.CodeFailedPrecondition,
	CodeOutOfUse: connect.CodeFailedPrecondition, CodeTransferLost: connect.CodeFailedPrecondition, CodeChallenge: connect.CodeFailedPrecondition,
	CodeSetAside: connect.CodeFailedPrecondition, CodeProfile: connect.CodeFailedPrecondition, CodePoolKey: connect.CodeFailedPrecondition, CodeUnknown: connect.CodeNotFound,

	CodeActive: connect.CodeAlreadyExists, CodeConflict: connect.CodeAlreadyExists,

	CodePoolEmpty: connect.CodeResourceExhausted, CodeQuota: connect.CodeResourceExhausted,

	CodeBusy: connect.CodeUnavailable, CodePublication: connect.CodeUnavailable, CodeDatabase: connect.CodeUnavailable,
	CodeHSM: connect.CodeUnavailable, CodeStopping: connect.CodeUnavailable, CodeTimeout: connect.CodeUnavailable,

	CodeInternal: connect.CodeInternal,
}

// rpcError gives a refusal as stations see it: text, code and next step, and,
// where waiting helps, for how long (in the detail, and as Retry-After).
func rpcError(r *Refusal) *connect.Error {
	class, ok := classes[r.code]
	if !ok {
		class = connect.CodeInternal
	}
	err := connect.NewError(class, errors.New(r.text))
	detail := &provisioningrpc.Refusal{Code: string(r.code), Next: r.next, RetryAfterMs: r.retry.Milliseconds()}
	if d, failed := connect.NewErrorDetail(detail); failed == nil { // it can't: the message is ours
		err.AddDetail(d)
	}
	if r.retry > 0 {
		err.Meta().Set("Retry-After", strconv.Itoa(int((r.retry+time.Second-1)/time.Second)))
	}
	return err
}

func recordID(b []byte) (identity.RecordID, error) {
	if len(b) != len(identity.RecordID{}) {
		return identity.RecordID{}, refuse(CodeMalformed, "send the record id that begin gave", "the record id has %d bytes, %d are expected", len(b), len(identity.RecordID{}))
	}
	return identity.RecordID(b), nil
}

func generationOf(g uint32) (identity.Generation, error) {
	if g == 0 {
		return 0, refuse(CodeMalformed, "send the generation that begin gave", "generation 0 is not allowed, the first is 1")
	}
	return identity.Generation(g), nil
}

func named(record []byte, g uint32) (identity.RecordID, identity.Generation, error) {
	r, err := recordID(record)
	if err != nil {
		return r, 0, err
	}
	n, err := generationOf(g)
	return r, n, err
}

// Modules implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Modules(ctx context.Context, req *connect.Request[provisioningrpc.ModulesRequest]) (*connect.Response[provisioningrpc.ModulesResponse], error) {
	return call(ctx, v.assembly, "modules", callTimeout, req, func(ctx context.Context, s Station, _ *provisioningrpc.ModulesRequest) (*provisioningrpc.ModulesResponse, error) {
		p, err := v.assembly.admit(ctx, s)
		if err != nil {
			return nil, err
		}
		res := &provisioningrpc.ModulesResponse{RomKey: v.assembly.keys.ROMKey().Point(), Realm: v.assembly.realm.String(), ProductLine: p.Name}
		for _, m := range p.Modules() {
			res.Modules = append(res.Modules, &provisioningrpc.Module{Name: m.Name, Sha256: m.SHA256[:], Size: m.Size})
		}
		return res, nil
	})
}

// Begin implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Begin(ctx context.Context, req *connect.Request[provisioningrpc.BeginRequest]) (*connect.Response[provisioningrpc.BeginResponse], error) {
	return call(ctx, v.assembly, "begin", callTimeout, req, func(ctx context.Context, s Station, m *provisioningrpc.BeginRequest) (*provisioningrpc.BeginResponse, error) {
		b, err := v.assembly.Begin(ctx, s, m.Hello)
		if err != nil {
			return nil, err
		}
		return &provisioningrpc.BeginResponse{Package: b.Package, RecordId: b.Record[:], Generation: uint32(b.Generation), Unlock: b.Unlock}, nil
	})
}

// Confirm implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Confirm(ctx context.Context, req *connect.Request[provisioningrpc.ConfirmRequest]) (*connect.Response[provisioningrpc.ConfirmResponse], error) {
	return call(ctx, v.assembly, "confirm", callTimeout, req, func(ctx context.Context, s Station, m *provisioningrpc.ConfirmRequest) (*provisioningrpc.ConfirmResponse, error) {
		r, g, err := named(m.RecordId, m.Generation)
		if err != nil {
			return nil, err
		}
		c, err := v.assembly.Confirm(ctx, s, r, g, m.Backup, m.Mac)
		if err != nil {
			return nil, err
		}
		return &provisioningrpc.ConfirmResponse{Challenge: c[:]}, nil
	})
}

// Restored implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Restored(ctx context.Context, req *connect.Request[provisioningrpc.RestoredRequest]) (*connect.Response[provisioningrpc.RestoredResponse], error) {
	return call(ctx, v.assembly, "restored", callTimeout, req, func(ctx context.Context, s Station, m *provisioningrpc.RestoredRequest) (*provisioningrpc.RestoredResponse, error) {
		r, g, err := named(m.RecordId, m.Generation)
		if err != nil {
			return nil, err
		}
		return &provisioningrpc.RestoredResponse{}, v.assembly.Restored(ctx, s, r, g, m.Mac)
	})
}

// Publish implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Publish(ctx context.Context, req *connect.Request[provisioningrpc.PublishRequest]) (*connect.Response[provisioningrpc.PublishResponse], error) {
	return call(ctx, v.assembly, "publish", callTimeout+publishWait, req, func(ctx context.Context, s Station, m *provisioningrpc.PublishRequest) (*provisioningrpc.PublishResponse, error) {
		r, g, err := named(m.RecordId, m.Generation)
		if err != nil {
			return nil, err
		}
		p, err := v.assembly.Publish(ctx, s, r, g)
		if err != nil {
			return nil, err
		}
		return &provisioningrpc.PublishResponse{Mac: p.MAC, Sequence: p.Sequence}, nil
	})
}

// Locked implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Locked(ctx context.Context, req *connect.Request[provisioningrpc.LockedRequest]) (*connect.Response[provisioningrpc.LockedResponse], error) {
	return call(ctx, v.assembly, "locked", callTimeout, req, func(ctx context.Context, s Station, m *provisioningrpc.LockedRequest) (*provisioningrpc.LockedResponse, error) {
		r, g, err := named(m.RecordId, m.Generation)
		if err != nil {
			return nil, err
		}
		return &provisioningrpc.LockedResponse{}, v.assembly.Locked(ctx, s, r, g, m.Mac)
	})
}

// Challenge implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Challenge(ctx context.Context, req *connect.Request[provisioningrpc.ChallengeRequest]) (*connect.Response[provisioningrpc.ChallengeResponse], error) {
	return call(ctx, v.assembly, "challenge", callTimeout, req, func(ctx context.Context, s Station, m *provisioningrpc.ChallengeRequest) (*provisioningrpc.ChallengeResponse, error) {
		r, err := recordID(m.RecordId)
		if err != nil {
			return nil, err
		}
		c, err := v.assembly.Challenge(ctx, s, r)
		if err != nil {
			return nil, err
		}
		return &provisioningrpc.ChallengeResponse{Challenge: c[:]}, nil
	})
}

// Prove implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Prove(ctx context.Context, req *connect.Request[provisioningrpc.ProveRequest]) (*connect.Response[provisioningrpc.ProveResponse], error) {
	return call(ctx, v.assembly, "prove", callTimeout, req, func(ctx context.Context, s Station, m *provisioningrpc.ProveRequest) (*provisioningrpc.ProveResponse, error) {
		r, err := recordID(m.RecordId)
		if err != nil {
			return nil, err
		}
		if len(m.Challenge) != 32 {
			return nil, refuse(CodeMalformed, "send the challenge that was given", "the challenge has %d bytes, 32 are expected", len(m.Challenge))
		}
		g, err := v.assembly.Prove(ctx, s, r, [32]byte(m.Challenge), m.Mac)
		if err != nil {
			return nil, err
		}
		return &provisioningrpc.ProveResponse{Generation: uint32(g)}, nil
	})
}

// Status implements provisioningrpc.AssemblyServiceHandler.
func (v *Service) Status(ctx context.Context, req *connect.Request[provisioningrpc.StatusRequest]) (*connect.Response[provisioningrpc.StatusResponse], error) {
	return call(ctx, v.assembly, "status", callTimeout, req, func(ctx context.Context, s Station, m *provisioningrpc.StatusRequest) (*provisioningrpc.StatusResponse, error) {
		r, err := recordID(m.RecordId)
		if err != nil {
			return nil, err
		}
		d, err := v.assembly.Status(ctx, s, r)
		if err != nil {
			return nil, err
		}
		res := &provisioningrpc.StatusResponse{State: string(d.State), Generation: uint32(d.Generation)}
		if len(d.Backup) > 0 && d.State != records.Burned {
			res.Challenge = d.Challenge[:]
		}
		switch d.State {
		case records.Confirmed, records.Restored, records.Published:
			res.Certificate, res.Backup = d.Certificate, d.Backup
		}
		return res, nil
	})
}
