package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"
)

// mailDocument is a downlink as an app gets it.
type mailDocument struct {
	ID                    string          `json:"id"`
	Device                string          `json:"device"`
	Subtopic              string          `json:"subtopic"`
	ContentType           string          `json:"contentType"`
	Received              time.Time       `json:"received"`
	Expires               time.Time       `json:"expires"`
	Payload               json.RawMessage `json:"payload"`
	PayloadBase64         []byte          `json:"payloadBase64"`
	CorrelationDataBase64 []byte          `json:"correlationDataBase64"`
	AnswerWanted          bool            `json:"answerWanted"`
}

// mailApp is an app that fetches the downlinks of a device.
type mailApp struct {
	t      *testing.T
	client *http.Client
	base   string
}

func newMailApp(t *testing.T, addr string) *mailApp {
	t.Helper()
	return &mailApp{t, newClient(t), "http://" + addr + "/v1/devices/pump-1/downlinks"}
}

func (a *mailApp) fetch(query string) []mailDocument {
	a.t.Helper()
	resp, err := a.client.Get(a.base + query)
	if err != nil {
		a.t.Fatal(err)
	}
	defer resp.Body.Close()
	var body struct{ Downlinks []mailDocument }
	if err := json.NewDecoder(resp.Body).Decode(&body); err != nil || resp.StatusCode != http.StatusOK || body.Downlinks == nil {
		a.t.Fatalf("fetch: status %d, %v", resp.StatusCode, err)
	}
	return body.Downlinks
}

// await fetches until there are n.
func (a *mailApp) await(n int) (ds []mailDocument) {
	a.t.Helper()
	eventually(a.t, fmt.Sprintf("%d downlinks are in the mailbox", n), func() bool {
		ds = a.fetch("?wait=1s")
		return len(ds) >= n
	})
	return ds
}

func (a *mailApp) delete(id, contentType, answer string) int {
	a.t.Helper()
	var body io.Reader
	if answer != "" {
		body = strings.NewReader(answer)
	}
	req, err := http.NewRequest(http.MethodDelete, a.base+"/"+id, body)
	if err != nil {
		a.t.Fatal(err)
	}
	if contentType != "" {
		req.Header.Set("Content-Type", contentType)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	_ = resp.Body.Close()
	return resp.StatusCode
}

// stream opens an event stream; its events come as documents until it ends.
func (a *mailApp) stream(lastID string) (events <-chan mailDocument, stop func()) {
	a.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	a.t.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, a.base, nil)
	if err != nil {
		a.t.Fatal(err)
	}
	req.Header.Set("Accept", "text/event-stream")
	if lastID != "" {
		req.Header.Set("Last-Event-ID", lastID)
	}
	resp, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	if ct := resp.Header.Get("Content-Type"); resp.StatusCode != http.StatusOK || ct != "text/event-stream" {
		a.t.Fatalf("stream: status %d, %q", resp.StatusCode, ct)
	}
	out := make(chan mailDocument, 1000)
	go func() {
		defer close(out)
		defer resp.Body.Close()
		id := ""
		for in := bufio.NewScanner(resp.Body); in.Scan(); {
			if v, ok := strings.CutPrefix(in.Text(), "id: "); ok {
				id = v
			}
			if v, ok := strings.CutPrefix(in.Text(), "data: "); ok {
				var d mailDocument
				if json.Unmarshal([]byte(v), &d) != nil || d.ID != id {
					return // the reader misses it
				}
				out <- d
			}
		}
	}()
	return out, cancel
}

// event is the next of a stream.
func (a *mailApp) event(events <-chan mailDocument) mailDocument {
	a.t.Helper()
	select {
	case d, ok := <-events:
		if !ok {
			a.t.Fatal("the stream has ended")
		}
		return d
	case <-time.After(patience):
		a.t.Fatal("no event")
		return mailDocument{}
	}
}

func texts(ds []mailDocument) string {
	var all []string
	for _, d := range ds {
		all = append(all, string(d.Payload))
	}
	return strings.Join(all, " ")
}

const mailbox = "[[device.downlink]]\nmailbox = true\n"

// TestMosquittoMailboxKilled kills the daemon between the broker's PUBACK and the
// fetch, and between fetch and delete.
func TestMosquittoMailboxKilled(t *testing.T) {
	t.Parallel()
	b := mosqStart(t, mosqOptions{})
	path := daemonConfig(t, fmt.Sprintf(mosqJWTConfig, b.addr)+mailbox, map[string]string{"pump-1.pem": mosqKey(t)})
	d := startDaemon(t, path)
	// At QoS 1 mosquitto_pub ends with the broker's PUBACK; ours comes after.
	eventually(t, "the session is up", func() bool { return strings.Contains(b.log.String(), "as pump-1 (p5") })
	var want []string
	for i := range 20 {
		b.publish("/down/device/id/pump-1/n", fmt.Sprint(i))
		want = append(want, fmt.Sprintf("%q", fmt.Sprint(i)))
	}
	d.signal(syscall.SIGKILL)

	d = startDaemon(t, path)
	app := newMailApp(t, d.HTTP)
	all := app.await(20)
	if got := texts(all); got != strings.Join(want, " ") {
		t.Fatalf("after the first kill: %s", got)
	}
	if got := app.delete(all[0].ID, "", ""); got != http.StatusNoContent {
		t.Fatalf("delete: %d", got)
	}
	if got := app.delete(all[0].ID, "", ""); got != http.StatusNotFound {
		t.Fatalf("delete again: %d", got)
	}
	d.signal(syscall.SIGKILL)

	d = startDaemon(t, path)
	app = newMailApp(t, d.HTTP)
	rest := app.fetch("")
	if got := texts(rest); got != strings.Join(want[1:], " ") || rest[0].ID != all[1].ID {
		t.Fatalf("after the second kill: %s", got)
	}
	if got := app.fetch("?limit=2"); texts(got) != strings.Join(want[1:3], " ") {
		t.Fatalf("two of them: %s", texts(got))
	}
	if code := d.signal(syscall.SIGTERM); code != 0 {
		t.Errorf("exit code %d", code)
	}
}

// TestMosquittoMailbox: what apps see, two consumers, streams and their end.
func TestMosquittoMailbox(t *testing.T) {
	t.Parallel()
	b := mosqStart(t, mosqOptions{})
	g := startGateway(t, fmt.Sprintf(mosqJWTConfig, b.addr)+mailbox, map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitUp()
	answers := b.answers("/up/answers")
	app := newMailApp(t, g.HTTP)
	waiting := make(chan []mailDocument, 1)
	go func() { waiting <- app.fetch("?wait=60s") }()
	other, _ := app.stream("")
	began := time.Now()
	b.ask("/down/device/id/pump-1/valve/2", `{ "open" : true }`, "/up/answers", "c-1")
	b.publish("/down/device/id/pump-1", "text", "-D", "publish", "content-type", "text/plain")
	b.publish("/down/device/id/pump-1", `{"a":1}`, "-D", "publish", "content-type", "application/json")
	first := <-waiting
	if len(first) == 0 || time.Since(began) > 30*time.Second || first[0].Subtopic != "valve/2" || first[0].Device != "pump-1" ||
		string(first[0].CorrelationDataBase64) != "c-1" || !first[0].AnswerWanted || time.Until(first[0].Expires) < time.Hour {
		t.Fatalf("the one that waited got %+v", first)
	}
	all := app.await(3)
	if texts(all) != `"{ \"open\" : true }" "text" {"a":1}` {
		t.Errorf("payloads %s", texts(all))
	}
	for i := range all {
		if d := app.event(other); d.ID != all[i].ID {
			t.Errorf("event %d is %+v", i, d)
		}
	}
	// A stream goes on behind what is still there, and from the start otherwise.
	resumed, stop := app.stream(all[1].ID)
	if d := app.event(resumed); d.ID != all[2].ID {
		t.Errorf("resumed with %+v", d)
	}
	stop()
	if got := app.delete(all[0].ID, "application/json", `{"done":true}`); got != http.StatusNoContent {
		t.Fatalf("delete with an answer: %d", got)
	}
	answers.want(`c-1 application/json {"done":true}`)
	again, stop := app.stream(all[0].ID)
	if d := app.event(again); d.ID != all[1].ID {
		t.Errorf("after a deleted one: %+v", d)
	}
	stop()

	// Who waits at the end gets an answer, and streams end in order, at once.
	for _, d := range all[1:] {
		app.delete(d.ID, "", "")
	}
	go func() { waiting <- app.fetch("?wait=60s") }()
	eventually(t, "it waits", func() bool { return app.fetch("") != nil })
	time.Sleep(100 * time.Millisecond)
	began = time.Now()
	g.stop()
	if got := <-waiting; len(got) != 0 || time.Since(began) > 8*time.Second {
		t.Errorf("at the end, after %s: %v", time.Since(began), got)
	}
	for range other { // until it ends
	}
	if !strings.Contains(g.Logs.String(), "msg=stopped") || strings.Contains(g.Logs.String(), "cut off") {
		t.Error("the end was not in order")
	}
	g = g.restart()
	if got := newMailApp(t, g.HTTP).fetch(""); len(got) != 0 {
		t.Errorf("after a restart: %+v", got)
	}
}

// TestMosquittoMailboxExpiry: what has expired is gone, a dead letter, and
// counted; what has no mailbox is told so.
func TestMosquittoMailboxExpiry(t *testing.T) {
	t.Parallel()
	b := mosqStart(t, mosqOptions{})
	g := startGateway(t, fmt.Sprintf(mosqJWTConfig, b.addr)+mailbox+"[[device]]\nid = \"other\"\nkey_file = \"pump-1.pem\"\n",
		map[string]string{"pump-1.pem": mosqKey(t)})
	g.awaitUp()
	b.publish("/down/device/id/pump-1", "short", "-D", "publish", "message-expiry-interval", "2")
	b.publish("/down/device/id/pump-1", "long")
	app := newMailApp(t, g.HTTP)
	app.await(1)
	eventually(t, "the short one has expired", func() bool { return texts(app.fetch("")) == `"long"` })
	if got := app.delete(app.fetch("")[0].ID, "", ""); got != http.StatusNoContent {
		t.Errorf("delete: %d", got)
	}
	g.awaitMetrics("of the mailbox", map[string]func(float64) bool{
		`downlinks_total{outcome="delivered",target="mailbox"}`: is(1),
		`downlinks_total{outcome="refused",target="mailbox"}`:   is(1),
		`dead_letters{kind="downlink"}`:                         is(1),
	})
	for device, want := range map[string]string{"other": "mailbox = true", "nobody": "[[device]]"} {
		resp, err := app.client.Get("http://" + g.HTTP + "/v1/devices/" + device + "/downlinks")
		if err != nil {
			t.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound || !strings.Contains(string(body), want) {
			t.Errorf("%s: %d %s", device, resp.StatusCode, body)
		}
	}
}
