package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"

	"fieldbridge/bridge"
	"fieldbridge/bridge/spool"
)

// measured is the time of the readings in stocked spools.
var measured = time.Date(2026, 3, 1, 8, 30, 0, 123_000_000, time.UTC)

func stockReading(n byte, device bridge.DeviceID, sub bridge.Subtopic, contentType, payload string) bridge.Reading {
	return bridge.Reading{ID: uuid.UUID{15: n}, Device: device, Subtopic: sub, ContentType: contentType,
		Payload: []byte(payload), Time: measured}
}

// stock fills a spool: 3 readings of two devices, a downlink that waits, and the
// dead letters 1 (a reading), 2 (a reading) and 3 (a downlink). It leaves the
// spool open if keep is set.
func stock(t *testing.T, dir string, keep bool) *spool.DB {
	t.Helper()
	db, err := spool.Open(spool.Options{Dir: dir, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	errs := make(chan error, 1)
	want := func(what string) {
		t.Helper()
		if err := <-errs; err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	db.Append([]bridge.Reading{
		stockReading(1, "pump-1", "alerts/critical", "application/json", "{ \"t\": 21.5,\n  \"note\": \"<&>\" }"),
		stockReading(2, "app", "", "application/octet-stream", "\x00\xff"),
		stockReading(3, "pump-1", "", "text/plain", "21.5 °C"),
	}, nil, func(_ int64, err error) { errs <- err })
	want("append")
	bury := func(r bridge.Reading, e bridge.Epitaph) {
		t.Helper()
		db.Bury(bridge.Stored{Reading: r}, e, func(err error) { errs <- err })
		want("bury")
	}
	bury(stockReading(4, "pump-1", "alerts", "text/plain", "bad payload"), bridge.Epitaph{Code: 0x99, Reason: "payload format invalid: no \x1b[31mway"})
	bury(stockReading(5, "app", "", "text/plain", "x"), bridge.Epitaph{Code: 0x80, Reason: "unspecified error"})
	down := func(n uint16, target, payload string) {
		t.Helper()
		db.AppendDownlinks([]bridge.StoredDownlink{{Target: target, Downlink: bridge.Downlink{
			ID: fmt.Sprintf("down-%d", n), Device: "pump-1", Subtopic: "valve\t1", Payload: []byte(payload),
			ResponseTopic: "/up/" + yardSecret + "/id/pump-1", Received: measured,
		}}}, bridge.Origin{Session: "s", PacketID: n}, func(err error) { errs <- err })
		want("append downlink")
	}
	down(1, "serial scale", "tare")
	down(2, "webhook http://127.0.0.1:9000/valve 01020304", "open")
	type page struct {
		list []bridge.StoredDownlink
		err  error
	}
	pages := make(chan page, 1)
	db.LoadDownlinks("webhook http://127.0.0.1:9000/valve 01020304", 0, 1, func(l []bridge.StoredDownlink, err error) { pages <- page{l, err} })
	p := <-pages
	if p.err != nil || len(p.list) != 1 {
		t.Fatalf("%d downlinks, %v", len(p.list), p.err)
	}
	db.BuryDownlink(p.list[0].Seq, bridge.Epitaph{Reason: "expired"}, func(err error) { errs <- err })
	want("bury downlink")
	if keep {
		t.Cleanup(func() { _ = db.Close() })
		return db
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	return nil
}

// spoolTest is a configuration whose spool is stocked.
type spoolTest struct {
	t      *testing.T
	config string
	db     *spool.DB // nil: no daemon has it open
}

// eachSpool runs a test beside a daemon and without one.
func eachSpool(t *testing.T, test func(*spoolTest)) {
	for _, running := range []bool{false, true} {
		t.Run(fmt.Sprintf("daemon %v", running), func(t *testing.T) {
			s := &spoolTest{t: t, config: writeConfig(t, "state_dir = \"state\"\n"+secretConfig("127.0.0.1:1"), secretFiles())}
			s.db = stock(t, filepath.Join(filepath.Dir(s.config), "state"), running)
			test(s)
		})
	}
}

// cli runs a spool command that must end with this code.
func (s *spoolTest) cli(code int, args ...string) (stdout, stderr string) {
	s.t.Helper()
	got, stdout, stderr := cli(append([]string{"spool"}, append(args, "--config", s.config)...)...)
	if got != code || (code == 0) != (stderr == "") {
		s.t.Fatalf("spool %v: exit code %d, want %d; stdout %q, stderr %q", args, got, code, stdout, stderr)
	}
	if strings.Contains(stdout+stderr, yardSecret) || strings.ContainsRune(stdout+stderr, 0x1b) {
		s.t.Errorf("spool %v shows a secret or speaks to the terminal: %q", args, stdout+stderr)
	}
	return stdout, stderr
}

// dead are the numbers of the dead letters.
func (s *spoolTest) dead() (numbers []int64) {
	s.t.Helper()
	out, _ := s.cli(0, "dead", "--json")
	for line := range strings.Lines(out) {
		var d deadDocument
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		numbers = append(numbers, d.Number)
	}
	return numbers
}

// exported are the ids of the readings that wait.
func (s *spoolTest) exported() (ids []string) {
	s.t.Helper()
	out, _ := s.cli(0, "export")
	for line := range strings.Lines(out) {
		var d readingDocument
		if err := json.Unmarshal([]byte(line), &d); err != nil {
			s.t.Fatalf("%q: %v", line, err)
		}
		ids = append(ids, strings.TrimPrefix(d.ID, "00000000-0000-0000-0000-00000000000"))
	}
	return ids
}

// rows are the cells of a table, and an empty row for an empty line.
func rows(text string) (cells [][]string) {
	for line := range strings.Lines(text) {
		var row []string
		for cell := range strings.SplitSeq(strings.TrimSpace(line), "  ") {
			if cell = strings.TrimSpace(cell); cell != "" {
				row = append(row, cell)
			}
		}
		cells = append(cells, row)
	}
	return cells
}

func TestSpoolList(t *testing.T) {
	eachSpool(t, func(s *spoolTest) {
		out, _ := s.cli(0, "ls")
		got := rows(out)
		if len(got) != 8 {
			t.Fatalf("%d lines:\n%s", len(got), out)
		}
		size := func(row []string) (n int64) {
			_, _ = fmt.Sscan(row[2], &n)
			return n
		}
		app, pump, total := size(got[1]), size(got[2]), size(got[3])
		if app < 2 || pump <= app || total != app+pump {
			t.Errorf("bytes: %d of app, %d of pump-1, %d in sum", app, pump, total)
		}
		for _, i := range []int{1, 2, 3} {
			at, err := time.Parse(time.RFC3339, got[i][3])
			if age := time.Since(at); err != nil || age < 0 || age > time.Hour {
				t.Errorf("oldest in line %d is %q", i, got[i][3])
			}
			got[i] = got[i][:2]
		}
		want := [][]string{
			{"DEVICE", "READINGS", "BYTES", "OLDEST"}, {"app", "1"}, {"pump-1", "2"}, {"total", "3"}, nil,
			{"TARGET", "DOWNLINKS", "BYTES", "OLDEST"},
			{"serial scale", "1", "4", "2026-03-01T08:30:00Z"}, {"total", "1", "4", "2026-03-01T08:30:00Z"},
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("table (-want +got):\n%s", diff)
		}
	})
}

func TestSpoolExport(t *testing.T) {
	const (
		first  = `{"id":"00000000-0000-0000-0000-000000000001","device":"pump-1","subtopic":"alerts/critical","contentType":"application/json","timestamp":"2026-03-01T08:30:00.123Z","payload":{"t":21.5,"note":"<&>"}}`
		second = `{"id":"00000000-0000-0000-0000-000000000002","device":"app","contentType":"application/octet-stream","timestamp":"2026-03-01T08:30:00.123Z","payloadBase64":"AP8="}`
		third  = `{"id":"00000000-0000-0000-0000-000000000003","device":"pump-1","contentType":"text/plain","timestamp":"2026-03-01T08:30:00.123Z","payloadBase64":"MjEuNSDCsEM="}`
	)
	eachSpool(t, func(s *spoolTest) {
		for _, c := range []struct {
			args []string
			want string
		}{
			{nil, first + "\n" + second + "\n" + third + "\n"},
			{[]string{"--device", "pump-1"}, first + "\n" + third + "\n"},
			{[]string{"--device", "nobody"}, ""},
		} {
			out, _ := s.cli(0, append([]string{"export"}, c.args...)...)
			if diff := cmp.Diff(c.want, out); diff != "" {
				t.Errorf("export %v (-want +got):\n%s", c.args, diff)
			}
		}
	})
}

func TestReadingDocument(t *testing.T) {
	for _, c := range []struct {
		name, contentType, payload, want string
	}{
		{"parameters", "application/json; charset=utf-8", `[1]`, `"payload":[1]`},
		{"null", "application/json", "null", `"payload":null`},
		{"JSON in text", "text/plain", "[1]", `"payloadBase64":"WzFd"`},
		{"no JSON", "application/json", "{", `"payloadBase64":"ew=="`},
		{"no UTF-8", "application/json", "\"\xff\"", `"payloadBase64":"Iv8i"`},
		{"nothing", "text/plain", "", `"payloadBase64":""`},
		{"large number", "application/json", "12345678901234567890.10", `"payload":12345678901234567890.10`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b bytes.Buffer
			r := bridge.Reading{Device: "d", ContentType: c.contentType, Payload: []byte(c.payload)}
			if err := newLineEncoder(&b).Encode(newReadingDocument(&r)); err != nil {
				t.Fatal(err)
			}
			if got := b.String(); !strings.Contains(got, c.want) || strings.Contains(got, "timestamp") || strings.Count(got, "\n") != 1 {
				t.Errorf("%s has no %s, or a time, or several lines", got, c.want)
			}
		})
	}
}

func TestSpoolUsage(t *testing.T) {
	path := writeConfig(t, "state_dir = \"state\"\n"+secretConfig("127.0.0.1:1"), secretFiles())
	stocked := t.TempDir()
	stock(t, stocked, false)
	broken := writeConfig(t, "frob = 1\n", nil)
	for _, c := range []struct {
		args   string
		code   int
		stderr string
	}{
		{"ls --config " + path, 1, "there is a spool once the daemon has run with this state_dir"},
		{"retry --all --config " + path, 1, "there is a spool once the daemon has run"},
		{"ls --config /nonexistent.toml", 2, "/nonexistent.toml"},
		{"ls --config " + broken, 2, "frob"},
		{"ls --config " + broken + " --state-dir " + stocked, 0, ""},
		{"drop 1 --config " + broken + " --state-dir " + stocked, 0, ""},
		{"export --device a+b --config " + path, 2, "--device: "},
		{"export --device= --config " + path, 2, "--device: "},
		{"retry", 2, `give the numbers of dead letters, as "fieldbridge spool dead" shows them, or --all`},
		{"drop 1 --all", 2, "or --all"},
		{"drop one", 2, `"one" is not the number of a dead letter`},
		{"drop 0", 2, `"0" is not the number`},
		{"drop 1 -- -1", 2, `"-1" is not the number`},
		{"ls more", 2, `unknown command or argument "more"`},
		{"frob", 2, `unknown command or argument "frob" for fieldbridge spool`},
	} {
		code, _, stderr := cli(append([]string{"spool"}, strings.Fields(c.args)...)...)
		if code != c.code || !strings.Contains(stderr, c.stderr) {
			t.Errorf("spool %s: exit code %d, want %d; stderr %q, want %q in it", c.args, code, c.code, stderr, c.stderr)
		}
	}
}
