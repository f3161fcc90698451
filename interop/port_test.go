package interop_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/devicekeys/devicekeys/deploy/programs"
	"github.com/devicekeys/devicekeys/device"
	"github.com/devicekeys/devicekeys/device/chip"
	"github.com/devicekeys/devicekeys/device/flash"
	"github.com/devicekeys/devicekeys/keypackage"
	"github.com/devicekeys/devicekeys/provisioning/pool/pooltest"
	"github.com/devicekeys/devicekeys/provisioning/profile"
	"github.com/devicekeys/devicekeys/registry/registrytest"
	"github.com/devicekeys/devicekeys/softhsm"
	"github.com/devicekeys/devicekeys/statement"
	"github.com/devicekeys/devicekeys/untested"
)

const service = "/devicekeys.provisioning.v1.AssemblyService/"

// spp is a running `spp serve`, set up by the house's programs, and its clients.
type spp struct {
	*place
	program string
	o       *openssl
	curl    string
	grpc    string
	address string
	rom     statement.PublicKey
	maker   registrytest.Signer
}

// startTime bounds the start of the SPP: it opens a token and two databases.
const startTime = time.Minute

func freeAddress(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	defer l.Close()
	return l.Addr().String()
}

func newSPP(t testing.TB) *spp {
	t.Helper()
	s := &spp{o: newOpenssl(t), curl: tool(t, "curl"), address: freeAddress(t), maker: registrytest.NewSigner(t, "chip maker")}
	s.place = newPlace(t, softhsm.New(t).NewDirectory(t), "dev-spp")
	identities := pooltest.NewDatabase(t, "pool", "spp", "auditor")
	s.db = pooltest.NewDatabase(t, "records", "spp", "auditor", "custodian")
	s.grpc = grpcClient(t)
	s.program = filepath.Join(programs.Build(t, "", "spp"), "spp")
	health := freeAddress(t)
	database := func(d *pooltest.Database, role string) string {
		c := d.Config(role)
		return fmt.Sprintf("{dsn: %q, password_file: %q}", c.DSN, c.PasswordFile)
	}
	s.write("spp.yaml", fmt.Appendf(nil, `
realm: development
listen: %s
metrics_listen: %s
token: {token: dev-spp, pin_file: spp.pin, lock_file: %q, kdf2_host: true}
tls: {certificate: spp.pem, client_ca: public/station-ca.pem}
pool: %s
records: %s
sequencer: {url: "https://%s", ca: public/station-ca.pem}
drain: 1ms
profiles: [phone.yaml]
chip_makers: [maker.pem]
owner: {pool: %s, records: %s}
`, s.address, health, s.tokens.LockFile(), database(identities, "spp"), database(s.db, "spp"), freeAddress(t), database(identities, "pool_owner"), database(s.db, "records_owner")))
	s.write("phone.yaml", profile.Phone)
	s.write("maker.pem", s.maker.Public().PEM())
	s.write("imeis.csv", []byte("00440200,000100,000109\n"))
	s.run(s.program, "migrate", "-c", "spp.yaml")
	s.custodian()
	s.run(custodian(t), "token", "--for", "spp", "--name", "spp-1", "--token", "dev-spp", "--pin-file", "spp.pin", "--lock-file", s.tokens.LockFile(), "--request", "spp.csr")
	s.run(custodian(t), "certify", "-c", "custodian.yaml", "--kind", "server", "--role", "spp", "--name", "spp-1", "--ip", "127.0.0.1", "--request", "spp.csr", "--out", "spp.pem")
	s.certify("line-1", "--kind", "station", "--line", "phone", "--tac", "any", "--quota", "100")
	s.certify("auditor-1", "--kind", "client", "--role", "auditor")
	// Somebody else's certificate, self-signed, in our station's name.
	s.o.run(nil, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=line-1", "-days", "2", "-keyout", s.path("stranger.key"), "-out", s.path("stranger.pem"))
	s.run(s.program, "pool", "import", "-c", "spp.yaml", "--batch", "one", "--line", "phone", "imeis.csv")
	var err error
	s.rom, err = statement.ParsePEM(read(t, s.path("public/rom-key.pem")))
	must(t, err)

	cmd := exec.Command(s.program, "serve", "-c", "spp.yaml")
	var log bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stderr = s.dir, s.env(), &log
	must(t, cmd.Start())
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended by itself, which Wait tells
		if err := cmd.Wait(); err != nil || t.Failed() {
			t.Errorf("spp serve: %v\n%s", err, log.String())
		}
	})
	for end := time.Now().Add(startTime); ; time.Sleep(20 * time.Millisecond) {
		if res, err := http.Get("http://" + health + "/healthz"); err == nil {
			res.Body.Close()
			if res.StatusCode == http.StatusOK {
				return s
			}
		}
		if time.Now().After(end) {
			t.Fatal("spp serve did not become healthy")
		}
	}
}

// grpcClient builds the client of grpc-go, whose modules have versions of their own.
func grpcClient(t testing.TB) string {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), "go", "mod", "download", "-modfile=testdata/grpc.mod").CombinedOutput(); err != nil {
		untested.Skip(t, "a client of grpc-go, which can't be had from the module proxy: %v\n%s", err, out)
	}
	client := filepath.Join(t.TempDir(), "grpcclient")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-modfile=testdata/grpc.mod", "-o", client, "./testdata/grpcclient").CombinedOutput(); err != nil {
		t.Fatalf("build a client of grpc-go: %v\n%s", err, out)
	}
	return client
}

// certify has the custodian sign a request that openssl made.
func (s *spp) certify(name string, args ...string) {
	s.t.Helper()
	s.o.run(nil, "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN="+name, "-keyout", s.path(name+".key"), "-out", s.path(name+".csr"))
	s.run(custodian(s.t), append([]string{"certify", "-c", "custodian.yaml", "--name", name, "--request", name + ".csr", "--out", name + ".pem"}, args...)...)
}

// invoke calls a method with grpc-go, as a certificate's holder or as nobody, and gives what it prints.
func (s *spp) invoke(as, method, request string) result {
	s.t.Helper()
	args := []string{s.address, "public/station-ca.pem", service + method}
	if as != "" {
		args = append(args, as+".pem", as+".key")
	}
	return executeIn(s.t, s.dir, nil, []byte(request), s.grpc, args...)
}

// curlStream is curl's exit code where the server closed a stream: one that has answered and reads no more of what
// curl still sends (RFC 9113 §8.1) sometimes loses curl the answer.
const curlStream = 92

// post posts a body with curl and gives the HTTP status and the answer; 0 where TLS came to nothing.
func (s *spp) post(as, method, contentType string, body []byte) (status int, answer string) {
	s.t.Helper()
	args := []string{"--silent", "--show-error", "--max-time", "30", "--cacert", "public/station-ca.pem", "--header", "Content-Type: " + contentType,
		"--data-binary", "@-", "--write-out", "\n%{http_code}", "https://" + s.address + service + method}
	if as != "" {
		args = append(args, "--cert", as+".pem", "--key", as+".key")
	}
	r := executeIn(s.t, s.dir, nil, body, s.curl, args...)
	for range 3 {
		if r.code != curlStream {
			break
		}
		r = executeIn(s.t, s.dir, nil, body, s.curl, args...)
	}
	end := strings.LastIndexByte(r.out, '\n') // what --write-out puts behind the answer
	if end < 0 {
		s.t.Fatalf("curl: %v", r)
	}
	answer, code := r.out[:end], r.out[end+1:]
	if _, err := fmt.Sscan(code, &status); err != nil {
		s.t.Fatalf("curl: %v", r)
	}
	// A refusal may come while curl still sends, which it then complains about.
	if r.code == 0 && status == 0 {
		s.t.Fatalf("curl: %v", r)
	}
	return status, answer + r.errs
}

func parsed(t testing.TB, text string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(text), &m); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return m
}

// TestPort: grpc-go and curl, each as a station, get the same answers from one SPP; and a device accepts what grpc-go
// brought it.
func TestPort(t *testing.T) {
	t.Parallel()
	s := newSPP(t)
	const jsonType = "application/json"

	// Both see the product line and the ROM key.
	want := map[string]any{"romKey": base64.StdEncoding.EncodeToString(s.rom.Point()), "realm": "development", "productLine": "phone"}
	status, answer := s.post("line-1", "Modules", jsonType, []byte("{}"))
	if status != http.StatusOK {
		t.Fatalf("curl: %d %s", status, answer)
	}
	if diff := cmp.Diff(want, parsed(t, answer)); diff != "" {
		t.Errorf("curl, Modules: %s", diff)
	}
	r := s.invoke("line-1", "Modules", "{}")
	if r.code != 0 {
		t.Fatalf("grpc-go: %v", r)
	}
	if diff := cmp.Diff(want, parsed(t, r.out)); diff != "" {
		t.Errorf("grpc-go, Modules: %s", diff)
	}

	// A device begins through grpc-go, and accepts.
	c, err := chip.NewSoftware(dev, 32, "")
	must(t, err)
	d, err := device.Open(t.Context(), device.Config{Chip: c, Flash: flash.NewMemory()})
	must(t, err)
	t.Cleanup(func() {
		if err := d.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	must(t, d.WriteROM(t.Context(), s.rom))
	list, err := keypackage.SignDeliveryList(t.Context(), s.maker, keypackage.DeliveryList{Realm: dev, Maker: "chip maker", Lot: "1",
		Chips: []keypackage.DeliveredChip{{Record: c.ID().RecordID(), Attestation: c.Attester().Public()}}})
	must(t, err)
	s.write("delivery.cose", list)
	s.run(s.program, "chips", "import", "-c", "spp.yaml", "delivery.cose")
	hello, err := d.Hello(t.Context(), keypackage.SuiteAttested)
	must(t, err)
	r = s.invoke("line-1", "Begin", `{"hello":"`+base64.StdEncoding.EncodeToString(hello)+`"}`)
	if r.code != 0 {
		t.Fatalf("grpc-go, Begin: %v", r)
	}
	var begun struct {
		Package, RecordID []byte
		Generation        int
	}
	must(t, json.Unmarshal([]byte(r.out), &begun))
	if _, err := d.Accept(t.Context(), begun.Package, nil); err != nil {
		t.Errorf("the device refuses the package that grpc-go brought: %v", err)
	}

	// Both see how far it is.
	named := `{"recordId":"` + base64.StdEncoding.EncodeToString(begun.RecordID) + `"}`
	want = map[string]any{"state": "packaged", "generation": 1.0}
	if status, answer = s.post("line-1", "Status", jsonType, []byte(named)); status != http.StatusOK || cmp.Diff(want, parsed(t, answer)) != "" {
		t.Errorf("curl, Status: %d %s", status, answer)
	}
	if r = s.invoke("line-1", "Status", named); r.code != 0 || cmp.Diff(want, parsed(t, r.out)) != "" {
		t.Errorf("grpc-go, Status: %v", r)
	}

	// Refusals, in grpc-go's words and in curl's.
	unknown := `{"recordId":"` + base64.StdEncoding.EncodeToString(make([]byte, 32)) + `"}`
	for name, v := range map[string]struct {
		as, method, body string
		grpc             []string // what grpc-go prints
		status           int      // 0 where no connection comes about
		curl             []string // what curl prints
	}{
		"unknown device":     {"line-1", "Status", unknown, []string{"NotFound: ", `"unknown-device"`}, 404, []string{`"code":"not_found"`, `"unknown-device"`}},
		"short record id":    {"line-1", "Status", `{"recordId":"AAAA"}`, []string{"InvalidArgument: ", `"malformed"`}, 400, []string{`"code":"invalid_argument"`, `"malformed"`}},
		"a hello of nothing": {"line-1", "Begin", `{}`, []string{"InvalidArgument: ", `"malformed"`}, 400, []string{`"code":"invalid_argument"`, `"malformed"`}},
		"an auditor":         {"auditor-1", "Modules", `{}`, []string{"PermissionDenied: "}, 403, []string{`"code":"permission_denied"`, `"station"`}},
		"nobody":             {"", "Modules", `{}`, []string{"Unavailable: "}, 0, nil},
		"a stranger":         {"stranger", "Modules", `{}`, []string{"Unavailable: "}, 0, nil},
		"no such method":     {"line-1", "Keys", `{}`, []string{"Unimplemented: "}, 404, nil},
	} {
		r := s.invoke(v.as, v.method, v.body)
		status, answer := s.post(v.as, v.method, jsonType, []byte(v.body))
		for _, w := range v.grpc {
			if r.code != 1 || !strings.Contains(r.out, w) {
				t.Errorf("grpc-go, %s: %v\nwant %s", name, r, w)
			}
		}
		for _, w := range append(v.curl, "") { // "" is in every answer: the status counts
			if status != v.status || !strings.Contains(answer, w) {
				t.Errorf("curl, %s: %d %s\nwant %d %s", name, status, answer, v.status, w)
			}
		}
	}
	// What no client of the service would send.
	for name, v := range map[string]struct {
		contentType string
		body        []byte
		status      int
	}{
		"no JSON":         {jsonType, []byte("\xff\x00garbage"), 400},
		"another field":   {jsonType, []byte(`{"recordId":7}`), 400},
		"JSON cut short":  {jsonType, []byte(`{"recordId":"AA`), 400},
		"no protobuf":     {"application/proto", bytes.Repeat([]byte{0xff}, 100), 400},
		"a form":          {"application/x-www-form-urlencoded", []byte("a=b"), 415},
		"too large":       {jsonType, bytes.Repeat([]byte(" "), 1<<20), 429},
		"a broken packet": {"application/grpc", []byte{0, 0, 0, 0, 99, 1}, 200}, // gRPC says it in its trailers
	} {
		if status, answer := s.post("line-1", "Status", v.contentType, v.body); status != v.status {
			t.Errorf("curl, %s: %d %s, want %d", name, status, answer, v.status)
		}
	}
	if status, answer = s.post("line-1", "Status", jsonType, []byte(named)); status != http.StatusOK {
		t.Errorf("after all that: %d %s", status, answer)
	}
}
