// Package deploy_test checks what is deployed beside the programs: the set-up script, the service units, the
// monitoring.
package deploy_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/devicekeys/devicekeys/untested"
)

// need finds a program that a bare machine lacks; the test is then skipped and says so, in CI too: deploy/setup installs none of these.
func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		untested.Except(t, "what %s says of deploy: it is not installed", program)
	}
	return path
}

func run(t *testing.T, env []string, name string, args ...string) (output string, code int) {
	t.Helper()
	c := exec.CommandContext(t.Context(), name, args...)
	if env != nil {
		c.Env = env
	}
	out, err := c.CombinedOutput()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", name, err)
	}
	return string(out), c.ProcessState.ExitCode()
}

// ---- setup

// Where everything is there, and it is where tests run, setup neither says nor does anything.
func TestSetupQuiet(t *testing.T) {
	t.Parallel()
	if out, code := run(t, nil, "./setup"); out != "" || code != 0 {
		t.Errorf("exit code %d, and it says:\n%s", code, out)
	}
}

// With CI set, what is only good to have must be installed; without it, setup goes on and says what will skip.
func TestSetupInCI(t *testing.T) {
	t.Parallel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	// A Debian that has what is needed, and nothing else; its apt-get finds nothing.
	dir := t.TempDir()
	for name, script := range map[string]string{
		"apt-get": "exit 100", "id": "echo 0", "env": `while [ "${1#*=}" != "$1" ]; do shift; done; "$@"`,
		"go": "echo cc", "cc": "exit 0", "softhsm2-util": "exit 0", "initdb": "exit 0", "openssl": "exit 0", "dirname": "echo deploy", "python3": "exit 1", "curl": "exit 0",
		"tr": `read -r s; case $s in TRUE) echo true;; FALSE) echo false;; *) echo "$s";; esac`,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!"+sh+"\n"+script+"\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	text, err := os.ReadFile("setup")
	if err != nil {
		t.Fatal(err)
	}
	// The system's own programs stay out of it.
	edited := strings.NewReplacer("PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin\n", "", "python3 /usr/bin/python3", "python3", "/usr/lib/", "/nowhere/").Replace(string(text))
	setup := filepath.Join(t.TempDir(), "setup")
	if err := os.WriteFile(setup, []byte(edited), 0o600); err != nil {
		t.Fatal(err)
	}
	for ci, want := range map[string]struct {
		code int
		says []string
	}{
		"":      {0, []string{"good to have: python3-cbor2 python3-cryptography opensc:", "they are left out"}},
		"FALSE": {0, []string{"they are left out"}},
		"true":  {1, []string{"good to have: python3-cbor2 python3-cryptography opensc clang libclang-rt-dev libnss3:", "with CI=true nothing may be left out; as root, run:"}},
		"yes":   {1, []string{"with CI=yes nothing may be left out"}},
	} {
		out, code := run(t, append(os.Environ(), "PATH="+dir, "CI="+ci), sh, setup)
		if code != want.code {
			t.Errorf("CI=%s: exit code %d, want %d:\n%s", ci, code, want.code, out)
		}
		for _, s := range want.says {
			if !strings.Contains(out, s) {
				t.Errorf("CI=%s: no word of %q in\n%s", ci, s, out)
			}
		}
	}
}

// elsewhere is a PATH of a system with these programs and nothing else.
func elsewhere(t *testing.T, real, empty []string) []string {
	t.Helper()
	dir := t.TempDir()
	for _, p := range real {
		path, err := exec.LookPath(p)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(dir, p)); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range empty {
		if err := os.WriteFile(filepath.Join(dir, p), []byte("#!/bin/sh\necho called: "+p+" \"$@\"\nexit 1\n"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return append(os.Environ(), "PATH="+dir, "CC=no-such-compiler")
}

// On a system other than Debian setup names the command; without Go it says where Go is.
func TestSetupElsewhere(t *testing.T) {
	t.Parallel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		real, empty []string
		want        string
	}{
		"no Go":   {[]string{"dirname", "id"}, nil, "install 1.26 or newer from https://go.dev/dl"},
		"Alpine":  {[]string{"dirname", "id", "go"}, []string{"apk"}, "install it with: apk add gcc musl-dev"},
		"Fedora":  {[]string{"dirname", "id", "go"}, []string{"dnf"}, "install it with: dnf install gcc glibc-devel"},
		"macOS":   {[]string{"dirname", "id", "go"}, []string{"brew"}, "install it with: brew install gcc"},
		"unknown": {[]string{"dirname", "id", "go"}, nil, "install these with your system's package manager"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, code := run(t, elsewhere(t, c.real, c.empty), sh, "./setup")
			if code != 1 || !strings.Contains(out, c.want) || strings.Contains(out, "called:") {
				t.Errorf("exit code %d, want 1 and %q:\n%s", code, c.want, out)
			}
		})
	}
}

// ---- service units

var units = []string{"spp", "sequencer", "registry", "deviceservice"}

// writeUnit copies a unit with a program that exists here, changed by edit.
func writeUnit(t *testing.T, name string, edit func(string) string) string {
	t.Helper()
	text, err := os.ReadFile("systemd/" + name + ".service")
	if err != nil {
		t.Fatal(err)
	}
	want := "ExecStart=/usr/bin/" + name + " serve --config /etc/devicekeys/" + name + ".yaml\n"
	if !strings.Contains(string(text), want) {
		t.Fatalf("%s.service has no line %q", name, want)
	}
	path := filepath.Join(t.TempDir(), name+".service")
	if err := os.WriteFile(path, []byte(edit(strings.Replace(string(text), "/usr/bin/"+name, "/bin/true", 1))), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func same(s string) string { return s }

func TestUnits(t *testing.T) {
	t.Parallel()
	analyze := need(t, "systemd-analyze")
	for _, name := range units {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if out, code := run(t, nil, analyze, "verify", writeUnit(t, name, same)); out != "" || code != 0 {
				t.Errorf("systemd-analyze verify: exit code %d:\n%s", code, out)
			}
			broken := writeUnit(t, name, func(s string) string { return strings.Replace(s, "ProtectHome=", "ProtectHomes=", 1) })
			if out, _ := run(t, nil, analyze, "verify", broken); !strings.Contains(out, "ProtectHomes") {
				t.Errorf("systemd-analyze verify passes a misspelt key:\n%s", out)
			}
		})
	}
}

// systemd's own score of the sandbox, 0 (nothing exposed) to 10; unpatched services are above 9.
func TestUnitsExposure(t *testing.T) {
	t.Parallel()
	analyze := need(t, "systemd-analyze")
	const most = 1.5
	score := regexp.MustCompile(`Overall exposure level for \S+: ([0-9.]+)`)
	for _, name := range units {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			out, _ := run(t, nil, analyze, "--no-pager", "security", "--offline=true", writeUnit(t, name, same))
			m := score.FindStringSubmatch(out)
			if m == nil {
				untested.Except(t, "the units' exposure: this systemd-analyze gives no score offline: %s", out)
			}
			if have, err := strconv.ParseFloat(m[1], 64); err != nil || have > most {
				t.Errorf("exposure is %s, want %.1f at most", m[1], most)
			}
		})
	}
}

// What systemd's score doesn't count, and the programs rely on.
func TestUnitsPromise(t *testing.T) {
	t.Parallel()
	for _, name := range units {
		text, err := os.ReadFile("systemd/" + name + ".service")
		if err != nil {
			t.Fatal(err)
		}
		for _, line := range []string{
			"LimitCORE=0",                // memory holds PINs and session secrets
			"RestartPreventExitStatus=2", // console.ExitUsage
			"TimeoutStopSec=30",          // above console.DrainTimeout
			"User=devicekeys-" + name,    // each program's secrets are its own
		} {
			if !strings.Contains("\n"+string(text), "\n"+line+"\n") {
				t.Errorf("%s.service lacks %q", name, line)
			}
		}
	}
}

// ---- monitoring

func TestPrometheus(t *testing.T) {
	t.Parallel()
	promtool := need(t, "promtool")
	if out, code := run(t, nil, promtool, "check", "config", "prometheus/prometheus.yml"); code != 0 || !strings.Contains(out, "rules found") {
		t.Errorf("promtool check config: exit code %d:\n%s", code, out)
	}
	if out, code := run(t, nil, promtool, "check", "rules", "prometheus/rules.yml"); code != 0 {
		t.Errorf("promtool check rules: exit code %d:\n%s", code, out)
	}
}

// input is a series and its samples, one a minute, as promtool writes them: "0+1x10" is 0, 1, 2, ... 10.
type input struct{ series, values string }

// Each alert fires on what it is for, and not on a day like any other.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := need(t, "promtool")
	alerts := alertNames(t)
	var fired []string
	for name, c := range map[string]struct {
		inputs []input
		fires  string // alert, "" for none
	}{
		"an ordinary day": {[]input{
			{`up{job="spp"}`, "1x60"},
			{`devicekeys_devices_total{job="spp",step="begin",result="ok"}`, "0+100x60"},
			{`devicekeys_devices_total{job="spp",step="begin",result="refused"}`, "0+1x60"},
			{`devicekeys_step_seconds_bucket{job="spp",step="begin",le="0.1"}`, "0+100x60"},
			{`devicekeys_step_seconds_bucket{job="spp",step="begin",le="+Inf"}`, "0+100x60"},
			{`devicekeys_pool_free{job="spp"}`, "100000-100x60"},
			{`devicekeys_pkcs11_errors_total{job="spp",class="data"}`, "0+1x60"},
			{`devicekeys_pkcs11_errors_total{job="spp",class="stop"}`, "3x60"},
			{`devicekeys_publication_lag_seconds{job="spp"}`, "4x60"},
			{`devicekeys_outbox_set_aside{job="spp"}`, "0x60"},
			{`devicekeys_refusals_total{job="spp",step="begin",code="active"}`, "0+1x60"},
			{`devicekeys_refusals_total{job="spp",step="begin",code="quota"}`, "7x60"},
			{`devicekeys_incidents_total{job="spp",kind="mac"}`, "3x60"},
			{`devicekeys_hsm_breaker_open{job="spp"}`, "0x54 1 0x5"},
			{`devicekeys_clock_skew_seconds{job="spp"}`, "0.01x60"},
			{`devicekeys_http_requests_total{job="registry",route="/records/{record}",code="200"}`, "0+1000x60"},
			{`devicekeys_http_requests_total{job="registry",route="/records/{record}",code="404"}`, "0+100x60"},
		}, ""},
		"a program is down": {[]input{{`up{job="registry"}`, "0x60"}}, "DevicekeysDown"},
		"devices are refused": {[]input{
			{`devicekeys_devices_total{step="confirm",result="ok"}`, "0+9x60"},
			{`devicekeys_devices_total{step="confirm",result="refused"}`, "0+1x60"},
		}, "DevicekeysStepFails"},
		"nothing is made": {[]input{
			{`devicekeys_devices_total{step="confirm",result="ok"}`, "9x60"},
			{`devicekeys_devices_total{step="confirm",result="refused"}`, "5x60"},
		}, ""},
		"a step is slow": {[]input{
			{`devicekeys_step_seconds_bucket{step="begin",le="1"}`, "0+90x60"},
			{`devicekeys_step_seconds_bucket{step="begin",le="5"}`, "0+100x60"},
			{`devicekeys_step_seconds_bucket{step="begin",le="+Inf"}`, "0+100x60"},
		}, "DevicekeysStepSlow"},
		"the pool runs out":               {[]input{{`devicekeys_pool_free`, "10000-100x60"}}, "DevicekeysPoolRunsOut"},
		"the pool is empty":               {[]input{{`devicekeys_pool_free`, "0x60"}}, "DevicekeysPoolEmpty"},
		"the token stops":                 {[]input{{`devicekeys_pkcs11_errors_total{class="stop"}`, "0+1x60"}}, "DevicekeysTokenStopped"},
		"the token restarts":              {[]input{{`devicekeys_pkcs11_errors_total{class="reinitialise"}`, "0+10x60"}}, "DevicekeysTokenUnsteady"},
		"nothing published":               {[]input{{`devicekeys_publication_lag_seconds`, "0+60x60"}}, "DevicekeysPublicationLag"},
		"a station has no quota left":     {[]input{{`devicekeys_refusals_total{step="begin",code="quota"}`, "0+1x60"}}, "DevicekeysStationQuota"},
		"a station's first call too many": {[]input{{`devicekeys_refusals_total{step="begin",code="quota"}`, "_x50 1x9"}}, "DevicekeysStationQuota"},
		"a certificate expired":           {[]input{{`devicekeys_refusals_total{step="begin",code="station-expired"}`, "0+1x60"}}, "DevicekeysStationExpired"},
		"a certificate's first call late": {[]input{{`devicekeys_refusals_total{step="begin",code="station-expired"}`, "_x50 1x9"}}, "DevicekeysStationExpired"},
		"a revoked station calls":         {[]input{{`devicekeys_refusals_total{step="begin",code="station-revoked"}`, "0x50 1x9"}}, "DevicekeysStationRevoked"},
		"a revoked station calls once":    {[]input{{`devicekeys_refusals_total{step="begin",code="station-revoked"}`, "_x50 1x9"}}, "DevicekeysStationRevoked"},
		"a revoked station called":        {[]input{{`devicekeys_refusals_total{step="begin",code="station-revoked"}`, "_x20 1x39"}}, ""},
		"a wrong attestation":             {[]input{{`devicekeys_incidents_total{job="spp",kind="attestation"}`, "2x50 3x9"}}, "DevicekeysIncident"},
		"the first of a kind":             {[]input{{`devicekeys_incidents_total{job="spp",kind="conflict"}`, "_x50 1x9"}}, "DevicekeysIncident"},
		"the HSM does not answer":         {[]input{{`devicekeys_hsm_breaker_open`, "0x20 1x39"}}, "DevicekeysBreakerOpen"},
		"the HSM is slow for a moment":    {[]input{{`devicekeys_hsm_breaker_open`, "0x54 1x0 0x5"}}, ""},
		"the clocks are apart":            {[]input{{`devicekeys_clock_skew_seconds`, "0x20 45x39"}}, "DevicekeysClockSkew"},
		"the clocks jump and come back":   {[]input{{`devicekeys_clock_skew_seconds`, "0x53 45x1 0x5"}}, ""},
		"the service has no records":      {[]input{{`devicekeys_service_records_away`, "0x20 1x39"}}, "DevicekeysServiceRecordsAway"},
		"the records blink":               {[]input{{`devicekeys_service_records_away`, "0x54 1x0 0x5"}}, ""},
		"devices have another key": {[]input{
			{`devicekeys_service_handshakes_total{suite="noise",outcome="ok"}`, "0+50x60"},
			{`devicekeys_service_handshakes_total{suite="noise",outcome="proof"}`, "0+50x60"},
		}, "DevicekeysServiceRefuses"},
		"strangers knock": {[]input{
			{`devicekeys_service_handshakes_total{suite="noise",outcome="ok"}`, "0+50x60"},
			{`devicekeys_service_handshakes_total{suite="noise",outcome="proof"}`, "0+2x60"},
			{`devicekeys_service_handshakes_total{suite="noise",outcome="unknown"}`, "0+90x60"},
		}, ""},
		"health checks, scanners and strangers knock": {[]input{
			{`devicekeys_service_handshakes_total{suite="noise",outcome="ok"}`, "0+1x60"},
			{`devicekeys_service_handshakes_total{suite="none",outcome="no-hello"}`, "0+90x60"},
			{`devicekeys_service_handshakes_total{suite="none",outcome="form"}`, "0+90x60"},
			{`devicekeys_service_handshakes_total{suite="none",outcome="limited"}`, "0+90x60"},
			{`devicekeys_service_handshakes_total{suite="none",outcome="stranger"}`, "0+90x60"},
		}, ""},
		"the service is full":        {[]input{{`devicekeys_service_connections_refused_total{cause="channels"}`, "0+5x60"}}, "DevicekeysServiceFull"},
		"a flood of many sources":    {[]input{{`devicekeys_service_connections_refused_total{cause="handshakes"}`, "0+5x60"}}, "DevicekeysServiceFull"},
		"a flood of one source":      {[]input{{`devicekeys_service_connections_refused_total{cause="source"}`, "0+500x60"}}, ""},
		"a fault of the service":     {[]input{{`devicekeys_service_panics_total`, "0x50 1x9"}}, "DevicekeysServiceFault"},
		"a fault long ago":           {[]input{{`devicekeys_service_panics_total`, "0x20 1x39"}}, ""},
		"a new service has no fault": {[]input{{`devicekeys_service_panics_total`, "_x50 0x9"}}, ""},
		"an entry is refused":        {[]input{{`devicekeys_outbox_set_aside`, "1x60"}}, "DevicekeysSetAside"},
		"the registry fails": {[]input{
			{`devicekeys_http_requests_total{route="/records/{record}",code="200"}`, "0+95x60"},
			{`devicekeys_http_requests_total{route="/records/{record}",code="503"}`, "0+5x60"},
		}, "DevicekeysHTTPErrors"},
		"one request, one failure": {[]input{{`devicekeys_http_requests_total{route="/records/{record}",code="500"}`, "0 0 1x57"}}, ""},
		"someone asks too often": {[]input{
			{`devicekeys_http_requests_total{route="/records/{record}",code="200"}`, "0+50x60"},
			{`devicekeys_http_requests_total{route="/records/{record}",code="429"}`, "0+50x60"},
		}, "DevicekeysHTTPRefused"},
	} {
		fired = append(fired, c.fires)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if c.fires != "" && !slices.Contains(alerts, c.fires) {
				t.Fatalf("there is no alert %s, only %q", c.fires, alerts)
			}
			out, code := run(t, nil, promtool, "test", "rules", writeRuleTest(t, alerts, c.inputs, c.fires))
			if code != 0 {
				t.Errorf("want %q to fire and nothing else:\n%s", c.fires, out)
			}
		})
	}
	for _, a := range alerts {
		if !slices.Contains(fired, a) {
			t.Errorf("no case makes %s fire", a)
		}
	}
}

// alertNames lists the alerts of rules.yml.
func alertNames(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile("prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert string }
		}
	}
	if err := yaml.Unmarshal(text, &rules); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			if r.Alert != "" {
				names = append(names, r.Alert)
			}
		}
	}
	return names
}

// writeRuleTest writes promtool's file: an expression over ALERTS must give 1 for the alert that fires, and nothing
// for all others.
func writeRuleTest(t *testing.T, alerts []string, inputs []input, fires string) string {
	t.Helper()
	rules, err := filepath.Abs("prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "rule_files: [%q]\nevaluation_interval: 1m\ntests:\n  - interval: 1m\n    input_series:\n", rules)
	for _, i := range inputs {
		fmt.Fprintf(&b, "      - series: %q\n        values: %q\n", i.series, i.values)
	}
	b.WriteString("    promql_expr_test:\n")
	for _, a := range alerts {
		fmt.Fprintf(&b, "      - expr: count(ALERTS{alertname=%q,alertstate=\"firing\"})\n        eval_time: 55m\n", a)
		if a == fires {
			b.WriteString("        exp_samples: [{labels: \"{}\", value: 1}]\n")
		} else {
			b.WriteString("        exp_samples: []\n")
		}
	}
	path := filepath.Join(t.TempDir(), "test.yml")
	if err := os.WriteFile(path, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Every metric that a rule asks for is one that the programs have.
func TestRulesNameRealMetrics(t *testing.T) {
	t.Parallel()
	rules, err := os.ReadFile("prometheus/rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	var source strings.Builder
	err = filepath.WalkDir("..", func(path string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := os.ReadFile(path)
		source.Write(b)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	names := regexp.MustCompile(`\bdevicekeys_[a-z0-9_]+`).FindAllString(string(rules), -1)
	if len(names) == 0 {
		t.Fatal("no rule names a metric")
	}
	for _, n := range names {
		if !strings.Contains(source.String(), `"`+strings.TrimSuffix(n, "_bucket")+`"`) {
			t.Errorf("rules.yml asks for %s, which no program has", n)
		}
	}
}
