package main

import (
	"context"
	"fmt"
	"time"

	"github.com/devicekeys/devicekeys/cmd/internal/console"
)

type stationCmd struct {
	Revoke stationRevokeCmd `cmd:"" help:"Refuse a station from now on, whatever its certificate says."`
	List   stationListCmd   `cmd:"" help:"List the revocations of stations."`
}

type stationRevokeCmd struct {
	console.ConfigFile
	console.Output
	orderFlags
	Name string `arg:"" name:"name" help:"The station's name, as its certificate has it: line-1."`
}

func (*stationRevokeCmd) Help() string {
	return `Every SPP on these databases refuses the station with its next call, with code station-revoked, and says so in its log and metrics. Devices it has in work stay as they are; another station, or this one with a new certificate, finishes them.

It concerns every certificate of that name made until now. One that the custodian makes later counts again, so a station is let back in by certifying it anew, with a new key; not in the first five minutes, since certificates are dated back by that much. Repeated, the command counts from the later moment: a certificate made in between is refused too.`
}

func (*stationRevokeCmd) Examples() string {
	return `
$ spp station revoke --config spp.yaml line-1 \
    --reason "its disk was stolen" --operator alice
station   line-1
revoked   2026-03-02T10:14:07Z
reason    its disk was stolen
operator  alice
begun     5120 generations of devices, ever

next: every SPP refuses it from its next call on; ...
$ custodian certify --config custodian.yaml --kind station --name line-1 ...`
}

// revoked is what station revoke says.
type revoked struct {
	Station  string    `json:"station"`
	Revoked  time.Time `json:"revoked"`
	Reason   string    `json:"reason"`
	Operator string    `json:"operator"`
	Begun    int64     `json:"begun"` // generations of devices that it ever began
	Next     string    `json:"next"`
}

func (r revoked) String() string {
	return fmt.Sprintf("station   %s\nrevoked   %s\nreason    %s\noperator  %s\nbegun     %d generations of devices, ever\n\nnext: %s\n",
		r.Station, r.Revoked.Format(time.RFC3339), r.Reason, r.Operator, r.Begun, r.Next)
}

// Run revokes. A crash leaves it done or not; done twice, the later moment counts. Nothing is skipped because it was
// revoked before: the thief of a certificate made since shall not go on for that.
func (c *stationRevokeCmd) Run(ctx context.Context, out console.IO) error {
	o, err := c.order()
	if err != nil {
		return err
	}
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		have, err := s.records.Revoke(ctx, c.Name, o)
		if err != nil {
			return err
		}
		r := revoked{
			Station: have.Station, Revoked: have.At.UTC(), Reason: have.Reason, Operator: have.Operator,
			Next: "every SPP refuses it from its next call on; when it is safe again, the custodian certifies it anew, with a new key",
		}
		if r.Begun, err = s.records.Begun(ctx, c.Name, time.Time{}); err != nil {
			return err
		}
		if r.Begun == 0 {
			r.Next = "no station of this name ever began a device: look for a slip in it"
		}
		return c.Print(out.Out, r)
	})
}

type stationListCmd struct {
	console.ConfigFile
	console.Output
}

func (*stationListCmd) Examples() string {
	return `
$ spp station list --config spp.yaml
station  revoked               reason               operator
line-1   2026-03-02T10:14:07Z  its disk was stolen  alice`
}

func (c *stationListCmd) Run(ctx context.Context, out console.IO) error {
	return withStores(ctx, c.Config, func(_ Config, s stores) error {
		all, err := s.records.Revocations(ctx)
		if err != nil {
			return err
		}
		t := console.NewTable(console.Columns("station", "revoked", "reason", "operator")...)
		for _, r := range all {
			t.Row(r.Station, r.At, r.Reason, r.Operator)
		}
		return c.Print(out.Out, t)
	})
}
