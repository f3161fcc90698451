package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/devicekeys/devicekeys/channel"
	"github.com/devicekeys/devicekeys/database"
	"github.com/devicekeys/devicekeys/deviceservice/client"
	"github.com/devicekeys/devicekeys/deviceservice/issued/issuedtest"
	"github.com/devicekeys/devicekeys/hsm"
	"github.com/devicekeys/devicekeys/hsm/maker"
	"github.com/devicekeys/devicekeys/hsm/servicekeys"
	"github.com/devicekeys/devicekeys/identity"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/records"
	"github.com/devicekeys/devicekeys/secret"
	"github.com/devicekeys/devicekeys/softhsm"
)

func TestMain(m *testing.M) { testscript.Main(m, map[string]func(){"deviceservice": main}) }

const configText = `
realm: development
listen: 127.0.0.1:%d
metrics_listen: 127.0.0.1:%d
token:
  token: %s
  pin_file: service.pin
  sessions: 2
records:
%s`

const grantText = `
role: service_new
records:
%s`

// section writes a database's section.
func section(c database.Config) string {
	return fmt.Sprintf("  dsn: %s\n  password_file: %s\n", strconv.Quote(c.DSN), strconv.Quote(c.PasswordFile))
}

// TestScript runs each script in a folder with a service's configuration: token in SoftHSM, database.
func TestScript(t *testing.T) {
	t.Parallel()
	h := softhsm.New(t)
	scripts, err := filepath.Glob("testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts found: %v", err)
	}
	for _, script := range scripts {
		t.Run(filepath.Base(script), func(t *testing.T) {
			t.Parallel()
			r := issuedtest.New(t)
			tok, empty := h.Token(t, "dev-service"), h.Token(t, "dev-empty")
			spp := setUp(t, h, tok)
			port, admin := freePort(t), freePort(t)
			testscript.Run(t, testscript.Params{
				Files:               []string{script},
				RequireExplicitExec: true,
				Setup: func(env *testscript.Env) error {
					env.Setenv("SOFTHSM2_CONF", h.Directory.Conf())
					env.Setenv("ADMIN", "http://127.0.0.1:"+strconv.Itoa(admin))
					env.Setenv("PIN", string(tok.PIN.Bytes()))
					good := fmt.Sprintf(configText, port, admin, tok.Label, section(r.Config("service")))
					for name, text := range map[string]string{
						"service.yaml":    good,
						"production.yaml": strings.Replace(good, "realm: development", "realm: production", 1),
						"notoken.yaml":    strings.Replace(good, tok.Label, "dev-nobody", 1),
						"new.yaml":        strings.Replace(fmt.Sprintf(configText, port, admin, empty.Label, section(r.Config("service_new"))), "service.pin", "empty.pin", 1),
						"empty.yaml":      strings.NewReplacer(tok.Label, empty.Label, "service.pin", "empty.pin").Replace(good),
						"ways.cert.yaml":  good + "keys: {lines: {watch: [certificate]}}\n",
						"ages.yaml":       good + "records_fresh: 1m\n",
						"ways.yaml":       good + "keys: {ways: [guessed]}\n",
						"limits.yaml":     good + "limits: {channels: 0}\n",
						"suites.yaml":     good + "suites: [nois]\n",
						"suites.tls.yaml": good + "suites: [tls]\n",
						"grant.yaml":      fmt.Sprintf(grantText, section(r.Config("records_owner"))),
						"grantless.yaml":  fmt.Sprintf(grantText, section(r.Config("spp"))),
					} {
						if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o600); err != nil {
							return err
						}
					}
					return errors.Join(secret.WriteFile(filepath.Join(env.WorkDir, "service.pin"), tok.PIN),
						secret.WriteFile(filepath.Join(env.WorkDir, "empty.pin"), empty.PIN))
				},
				Cmds: map[string]func(*testscript.TestScript, bool, []string){
					"answers": answers,
					// put N STATE: device N is in this state.
					"put": func(ts *testscript.TestScript, _ bool, args []string) {
						n, err := strconv.Atoi(args[0])
						ts.Check(err)
						r.Put(n, 1, records.State(args[1]))
					},
					// move N STATE: and now in this one.
					"move": func(ts *testscript.TestScript, _ bool, args []string) {
						n, err := strconv.Atoi(args[0])
						ts.Check(err)
						r.Move(n, 1, records.State(args[1]))
					},
					// talk N: device N opens a channel and asks for the time; with "!" it is refused.
					"talk": func(ts *testscript.TestScript, neg bool, args []string) {
						n, err := strconv.Atoi(args[0])
						ts.Check(err)
						err = talk(t, spp, "127.0.0.1:"+strconv.Itoa(port), n)
						if neg {
							if err == nil {
								ts.Fatalf("device %d is served", n)
							}
							return
						}
						ts.Check(err)
					},
				},
			})
		})
	}
}

// setUp makes an SPP's keys, and gives the service's token its share of them.
func setUp(t *testing.T, h *softhsm.HSM, service softhsm.Token) *maker.Keys {
	t.Helper()
	ctx := t.Context()
	spp, own := h.Open(t, h.Token(t, "spp")), h.Open(t, service)
	must(t, maker.Create(ctx, spp, maker.Plan{Realm: dev, Masters: []maker.Master{{Version: 1, KDF: hsm.KDF1}}, Purposes: []string{"channel"}}))
	keys, err := maker.Open(ctx, spp, dev)
	must(t, err)
	to, err := servicekeys.Create(ctx, own, dev)
	must(t, err)
	blob, check, err := maker.ExportPurpose(ctx, spp, dev, "channel", 1, to)
	must(t, err)
	_, err = servicekeys.Import(ctx, own, dev, blob, check)
	must(t, err)
	return keys
}

// talkTime bounds a device's conversation.
const talkTime = 20 * time.Second

// talk is what a device does; its key is in the SPP's token.
func talk(t *testing.T, spp *maker.Keys, addr string, n int) (err error) {
	ctx, cancel := context.WithTimeout(t.Context(), talkTime)
	defer cancel()
	id := keypackage.KeyID{Name: "channel", KDF: 1, Version: 1}
	d := issuedtest.Device(t, n, 1, records.Shipped)
	key, err := spp.DeviceKey(ctx, id, keypackage.DeviceKeyContext(dev, id, d.Identity, 1, d.Record))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, key.Destroy(ctx)) }()
	c, err := client.Dial(ctx, addr, channel.DeviceConfig{
		Hello: channel.Hello{Suite: channel.SuiteNoise, Realm: dev, Key: id, Identity: d.Identity, Generation: 1}, MAC: key.MAC,
	})
	if err != nil {
		return err
	}
	_, err = c.Time(ctx)
	return errors.Join(err, c.Close())
}

// answers URL [TEXT] waits until a GET of the URL is answered with 200, and the text in it.
func answers(ts *testscript.TestScript, _ bool, args []string) {
	c := &http.Client{Timeout: time.Second}
	defer c.CloseIdleConnections()
	var last error
	for range 200 {
		last = get(c, args)
		if last == nil {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	ts.Fatalf("%s: %v", args[0], last)
}

func get(c *http.Client, args []string) error {
	resp, err := c.Get(args[0])
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	switch {
	case err != nil:
		return err
	case resp.StatusCode != http.StatusOK:
		return fmt.Errorf("status %s", resp.Status)
	case len(args) > 1 && !strings.Contains(string(b), args[1]):
		return fmt.Errorf("the answer has no %q", args[1])
	}
	return nil
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

const dev = identity.Development

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
