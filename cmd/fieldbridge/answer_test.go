package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/spool"
)

// ask publishes a downlink that wants an answer on a topic.
func (b *mosqBroker) ask(topic, payload, answers, correlation string) {
	b.t.Helper()
	b.publish(topic, payload, "-D", "publish", "response-topic", answers, "-D", "publish", "correlation-data", correlation)
}

// answers subscribes to the answers on a topic, as lines of correlation data,
// content type and payload.
func (b *mosqBroker) answers(topic string) *mosqWitness {
	b.t.Helper()
	all := b.subscribe("%t %D %C %p")
	w := &mosqWitness{t: b.t, lines: make(chan string, cap(all.lines))}
	done := make(chan struct{})
	stop := make(chan struct{})
	go func() {
		defer close(done)
		for {
			select {
			case l := <-all.lines:
				if rest, ok := strings.CutPrefix(l, topic+" "); ok {
					w.lines <- rest
				}
			case <-stop:
				return
			}
		}
	}()
	b.t.Cleanup(func() { close(stop); <-done })
	return w
}

// respond makes the sensor answer each line with "re" and the line.
func (p *testPTY) respond() {
	done := make(chan struct{})
	p.t.Cleanup(func() { p.hangUp(); close(p.Lines); <-done })
	go func() {
		defer close(done)
		for l := range p.Lines {
			_, _ = p.master.WriteString("re " + l + "\r\n")
		}
	}()
}

// TestMosquittoAnswers asks a sensor and an app, and sees their answers on the
// response topic, with the correlation data.
func TestMosquittoAnswers(t *testing.T) {
	for _, kind := range mosqKinds() {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			b := mosqStart(t, kind.options)
			topic := kind.up + "/answers" // may hold the secret, which is not to be seen
			w := b.answers(topic)
			line := openPTY(t)
			hook := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
				body, _ := io.ReadAll(r.Body)
				rw.Header().Set("Content-Type", "application/json")
				_, _ = fmt.Fprintf(rw, `{"did":%s}`, body)
			}))
			defer hook.Close()
			text := fmt.Sprintf(kind.config, b.addr) + fmt.Sprintf(`
[[device.downlink]]
subtopic = "command/#"
serial = "scale"
[[device.downlink]]
subtopic = "valve"
webhook = "%s/valve"

[[serial]]
name = "scale"
port = %q
device = "pump-1"
answer = { timeout = "20s" }
`, hook.URL, line.Path)
			g := startGateway(t, text, kind.files(t))
			g.awaitUp()
			g.awaitPorts()

			b.ask(kind.down+"/command/tare", "TARE", topic, "c-1")
			line.want("TARE")
			line.write("tared\r\n")
			w.want("c-1 text/plain tared")
			b.ask(kind.down+"/valve", `{"open":true}`, topic, "c-2")
			w.want(`c-2 application/json {"did":{"open":true}}`)
			g.awaitEmpty()

			// The broker is gone when the answer comes.
			b.ask(kind.down+"/command/zero", "ZERO", topic, "c-3")
			line.want("ZERO")
			b.freeze()
			line.write("zeroed\r\n")
			g.awaitSpooled(1)
			code, out, stderr := cli("spool", "export", "--config", g.Path)
			if code != 0 || !strings.Contains(out, `"response":true`) || strings.Contains(out, topic) || stderr != "" {
				t.Errorf("spool export: %d, %s%s", code, out, stderr)
			}
			b.thaw()
			w.want("c-3 text/plain zeroed")
			g.awaitEmpty()
			w.quiet()
			g.stop()
			if strings.Contains(g.Logs.String(), topic) {
				t.Errorf("the response topic is in the log:\n%s", g.Logs)
			}
		})
	}
}

// With expect a downlink is sent again until the sensor has said so.
func TestMosquittoExpectedAnswer(t *testing.T) {
	b := mosqStart(t, mosqOptions{})
	w := b.answers("apps/7")
	line := openPTY(t)
	text := fmt.Sprintf(mosqJWTConfig, b.addr) + fmt.Sprintf(`
[[device.downlink]]
serial = "scale"

[[serial]]
name = "scale"
port = %q
device = "pump-1"
answer = { timeout = "300ms", expect = "^OK" }
`, line.Path)
	g := startGateway(t, text, map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitUp()
	g.awaitPorts()
	b.ask("/down/device/id/pump-1/set", "SET 5", "apps/7", "c-1")
	line.want("SET 5")
	line.write("+0024.31kg\r\n")
	line.want("SET 5")
	line.write("OK 5\r\n")
	w.want("c-1 text/plain OK 5")
	w.quiet()
	g.awaitEmpty()
}

var answerKills = flag.Int("answerkills", 6, "how often TestKillAnswers kills the gateway")

// TestKillAnswers kills the real binary at random moments while a sensor answers
// downlinks: each has an answer in the end, some have several.
func TestKillAnswers(t *testing.T) {
	mosqNeed(t)
	k := &killRun{t: t, binary: buildProgram(t), http: freeAddr(t), line: openPTY(t), log: &mosqLog{}, accepted: map[string]int{}}
	k.broker = mosqStart(t, mosqOptions{extra: "max_queued_messages 0\n"})
	k.line.respond()
	k.config = writeConfig(t, fmt.Sprintf(`
state_dir = "state"
[http]
listen = %q
[[connector]]
name = "yard"
broker = "mqtt://%s"
auth = "uplink-secret"
id = "connector-7"
secret_file = "secret"
[[device]]
id = "pump-1"
[[device.downlink]]
serial = "scale"
[[serial]]
name = "scale"
port = %q
device = "pump-1"
answer = { timeout = "5s" }
`, k.http, k.broker.addr, k.line.Path), map[string]string{"secret": mosqSecret})
	t.Cleanup(func() {
		if k.daemon != nil && k.daemon.ProcessState == nil {
			_ = k.daemon.Process.Kill()
			<-k.exited
		}
	})
	w := k.broker.answers("apps/7")
	k.startGateway()
	sessions := func() bool {
		code, out, _ := cli("status", "--config", k.config, "--json")
		return code == 0 && strings.Contains(out, `"up"`)
	}
	eventually(t, "the session is up", sessions) // the broker keeps the session from here on
	asked := 0
	for range *answerKills {
		for range 5 {
			asked++
			k.broker.ask("/down/"+mosqSecret+"/id/pump-1/x", fmt.Sprint(asked), "apps/7", fmt.Sprint("c-", asked))
		}
		k.pause(0, 60)
		k.kill()
		k.startGateway()
	}
	missing := map[string]bool{}
	for n := 1; n <= asked; n++ {
		missing[fmt.Sprint("c-", n)] = true
	}
	came := 0
	for len(missing) > 0 {
		select {
		case l := <-w.lines:
			came++
			correlation, _, _ := strings.Cut(l, " ")
			delete(missing, correlation)
		case <-time.After(30 * time.Second):
			t.Fatalf("%d of %d answers are missing: %v\n%s", len(missing), asked, missing, k.log)
		}
	}
	t.Logf("%d downlinks, %d answers, killed %d times", asked, came, *answerKills)
	if strings.Contains(k.log.String(), mosqSecret) {
		t.Error("the log has the secret")
	}
}

// The commands of the spool show answers, and not where they go to.
func TestSpoolAnswers(t *testing.T) {
	path := writeConfig(t, "state_dir = \"state\"\n"+secretConfig("127.0.0.1:1"), secretFiles())
	db, err := spool.Open(spool.Options{Dir: filepath.Join(filepath.Dir(path), "state"), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	answer := stockReading(1, "pump-1", "", "text/plain", "done")
	answer.ResponseTopic, answer.CorrelationData = "/up/"+yardSecret+"/id/pump-1", []byte("c-1")
	errs := make(chan error, 2)
	db.Append([]bridge.Reading{answer}, nil, func(_ int64, err error) { errs <- err })
	db.Bury(bridge.Stored{Reading: answer}, bridge.Epitaph{Code: 0x90, Reason: "topic name invalid"}, func(err error) { errs <- err })
	for range 2 {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	s := &spoolTest{t: t, config: path} // looks for the secret in what it prints
	out, _ := s.cli(0, "export")
	var d readingDocument
	if err := json.Unmarshal([]byte(out), &d); err != nil || !d.Response {
		t.Errorf("exported %q, %v", out, err)
	}
	out, _ = s.cli(0, "dead", "--json")
	var l deadDocument
	if err := json.Unmarshal([]byte(out), &l); err != nil || !l.Response || l.Kind != spool.KindReading {
		t.Errorf("dead letters %q, %v", out, err)
	}
	out, _ = s.cli(0, "dead")
	if table := rows(out); len(table) != 2 || table[1][1] != "answer" {
		t.Errorf("dead letters:\n%s", out)
	}
	s.cli(0, "retry", "--all")
	r, err := spool.OpenReadOnly(filepath.Join(filepath.Dir(path), "state"))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	n := 0
	err = r.Readings("", func(s bridge.Stored, _ time.Time) error {
		n++
		if s.ResponseTopic != answer.ResponseTopic || string(s.CorrelationData) != "c-1" {
			t.Errorf("reading %d goes to %q with %q", s.Seq, s.ResponseTopic, s.CorrelationData)
		}
		return nil
	})
	if n != 2 || err != nil {
		t.Errorf("%d readings wait, %v", n, err)
	}
}
