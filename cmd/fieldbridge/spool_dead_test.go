package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
	"fieldbridge/bridge/spool"
)

func TestSpoolDead(t *testing.T) {
	eachSpool(t, func(s *spoolTest) {
		out, _ := s.cli(0, "dead", "--json")
		var got []deadDocument
		for line := range strings.Lines(out) {
			var d deadDocument
			if err := json.Unmarshal([]byte(line), &d); err != nil {
				t.Fatal(err)
			}
			if at, err := time.Parse(time.RFC3339, d.Died); err != nil || time.Since(at) > time.Hour {
				t.Errorf("died %q", d.Died)
			}
			d.Died = ""
			got = append(got, d)
		}
		want := []deadDocument{
			{Number: 1, Kind: "reading", ID: "00000000-0000-0000-0000-000000000004", Device: "pump-1", Subtopic: "alerts",
				Code: 0x99, CodeName: "payload format invalid", Reason: "payload format invalid: no \x1b[31mway", Size: 11},
			{Number: 2, Kind: "reading", ID: "00000000-0000-0000-0000-000000000005", Device: "app",
				Code: 0x80, CodeName: "unspecified error", Reason: "unspecified error", Size: 1},
			{Number: 3, Kind: "downlink", ID: "down-2", Device: "pump-1", Subtopic: "valve\t1",
				Target: "webhook http://127.0.0.1:9000/valve 01020304", Reason: "expired", Size: 4},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("dead letters (-want +got):\n%s", diff)
		}
		out, _ = s.cli(0, "dead")
		table := rows(out)
		for i := range table {
			if len(table[i]) != 9 {
				t.Fatalf("%d cells in %q", len(table[i]), table[i])
			}
			table[i] = slices.Delete(table[i], 6, 7) // when it died
		}
		wantTable := [][]string{
			{"NUMBER", "KIND", "DEVICE", "SUBTOPIC", "TARGET", "CODE", "SIZE", "REASON"},
			{"1", "reading", "pump-1", "alerts", "-", "0x99 payload format invalid", "11", `"no \x1b[31mway"`},
			{"2", "reading", "app", "-", "-", "0x80 unspecified error", "1", "-"},
			{"3", "downlink", "pump-1", `"valve\t1"`, "webhook http://127.0.0.1:9000/valve 01020304", "-", "4", "expired"},
		}
		if diff := cmp.Diff(wantTable, table); diff != "" {
			t.Errorf("table (-want +got):\n%s", diff)
		}
	})
}

func TestSpoolRetry(t *testing.T) {
	eachSpool(t, func(s *spoolTest) {
		if s.db != nil {
			if changed, err := s.db.Changed(); changed || err != nil {
				t.Fatalf("changed %v, %v", changed, err)
			}
		}
		out, _ := s.cli(0, "retry", "3", "1", "3")
		if want := "1  reading of pump-1: back in its queue\n3  downlink of pump-1: back in its queue\n"; out != want {
			t.Errorf("says %q, want %q", out, want)
		}
		if got := s.dead(); !slices.Equal(got, []int64{2}) {
			t.Errorf("dead letters %v are left", got)
		}
		if got := s.exported(); !slices.Equal(got, []string{"1", "2", "3", "4"}) {
			t.Errorf("readings %v wait", got)
		}
		if out, _ := s.cli(0, "ls"); !strings.Contains(out, "webhook http://127.0.0.1:9000/valve 01020304  1") {
			t.Errorf("the downlink does not wait:\n%s", out)
		}
		if s.db != nil {
			if changed, err := s.db.Changed(); !changed || err != nil {
				t.Errorf("the daemon does not notice: changed %v, %v", changed, err)
			}
			if st := s.db.Stats(); st.Readings != 4 || st.Downlinks != 2 || st.DeadReadings != 1 || st.DeadDownlinks != 0 {
				t.Errorf("the daemon counts %+v", st)
			}
		}
		s.cli(0, "retry", "--all")
		if out, _ = s.cli(0, "retry", "--all"); out != "there are no dead letters\n" {
			t.Errorf("with none left it says %q", out)
		}
		if got := s.exported(); len(got) != 5 {
			t.Errorf("readings %v wait", got)
		}
	})
}

func TestSpoolDrop(t *testing.T) {
	eachSpool(t, func(s *spoolTest) {
		if out, _ := s.cli(0, "drop", "2"); out != "2  reading of app: deleted\n" {
			t.Errorf("says %q", out)
		}
		_, stderr := s.cli(1, "drop", "1", "2")
		if stderr != "dead letter 2: not in the spool; nothing was done\n" {
			t.Errorf("says %q", stderr)
		}
		s.cli(1, "retry", "4")
		if got := s.dead(); !slices.Equal(got, []int64{1, 3}) {
			t.Errorf("dead letters %v are left", got)
		}
		s.cli(0, "drop", "--all")
		if got := s.dead(); got != nil {
			t.Errorf("dead letters %v are left", got)
		}
		if got := s.exported(); len(got) != 3 {
			t.Errorf("readings %v wait", got)
		}
	})
}

// TestSpoolManyDead needs several transactions.
func TestSpoolManyDead(t *testing.T) {
	s := &spoolTest{t: t, config: writeConfig(t, "state_dir = \"state\"\n"+secretConfig("127.0.0.1:1"), secretFiles())}
	s.db = stock(t, filepath.Join(filepath.Dir(s.config), "state"), true)
	const more = 2*deadBatch + 7
	errs := make(chan error, more)
	for range more {
		s.db.Bury(bridge.Stored{Reading: stockReading(9, "app", "", "text/plain", "x")}, bridge.Epitaph{Code: 0x80}, func(err error) { errs <- err })
	}
	for range more {
		if err := <-errs; err != nil {
			t.Fatal(err)
		}
	}
	out, _ := s.cli(0, "drop", "--all")
	if n := strings.Count(out, ": deleted\n"); n != more+3 {
		t.Errorf("%d lines, want %d", n, more+3)
	}
	if got := s.dead(); got != nil {
		t.Errorf("dead letters %v are left", got)
	}
}

// TestSpoolBatchWithOneGone: one letter of a batch has gone since it was listed.
func TestSpoolBatchWithOneGone(t *testing.T) {
	dir := t.TempDir()
	stock(t, dir, false)
	e, err := spool.OpenEditor(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var done []int64
	_ = actOnBatch(e, dropDead, []deadDocument{{Number: 1}, {Number: 77}, {Number: 3}}, func(d deadDocument) { done = append(done, d.Number) })
	if !slices.Equal(done, []int64{1, 3}) {
		t.Errorf("%v are done", done)
	}
}

// TestSpoolRetryIsTakenUp: a running gateway sends what is put back.
func TestSpoolRetryIsTakenUp(t *testing.T) {
	s := newSite(t)
	port := openPTY(t)
	s.Broker.RefusePublishes(func(m devbroker.Message) byte {
		if strings.HasPrefix(string(m.Payload), "bad") {
			return 0x99
		}
		return 0
	})
	open := make(chan struct{}) // closed once the webhook takes downlinks
	hook := newWebhook(t, func(hookCall) int {
		select {
		case <-open:
			return http.StatusNoContent
		default:
			return http.StatusGone
		}
	})
	state := t.TempDir()
	g := startGateway(t, fmt.Sprintf("state_dir = %q\n", state)+
		s.config("", "", fmt.Sprintf(metricsText, port.Path, hook.URL)), s.Files)
	port.write("bad 1\n")
	s.down(devbroker.Message{Device: "pump-2", Payload: []byte("open")})
	hook.next()
	g.awaitMetrics("both dead letters", map[string]func(float64) bool{
		`dead_letters{kind="reading"}`: is(1), `dead_letters{kind="downlink"}`: is(1),
	})
	s.Broker.RefusePublishes(nil)
	close(open)
	if code, out, stderr := cli("spool", "retry", "--all", "--state-dir", state); code != 0 || strings.Count(out, "back in its queue") != 2 {
		t.Fatalf("exit code %d, stdout %q, stderr %q", code, out, stderr)
	}
	s.awaitPayload("bad 1")
	hook.want(hookCall{Path: "/", ContentType: "application/octet-stream", Device: "pump-2", Body: "open"})
	g.awaitMetrics("nothing left", map[string]func(float64) bool{
		`dead_letters{kind="reading"}`: is(0), `dead_letters{kind="downlink"}`: is(0),
		`spool_readings`: is(0), `spool_downlinks`: is(0),
	})
}
