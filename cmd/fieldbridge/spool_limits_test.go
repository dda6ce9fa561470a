package main

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge/devbroker"
)

const smallSpool = "\n[spool]\nmax_bytes = \"1MiB\"\nmin_free = \"1MiB\"\n"

// fill posts readings of 64 KiB until the spool refuses one, and returns how
// many it took and the refusal.
func (g *testGateway) fill(n *numbered) (stored int, refusal answer) {
	g.t.Helper()
	for ; stored < 40; stored++ {
		p := n.next("app")
		a := g.post("app", "", "text/plain", padded(p))
		if a.Status != http.StatusAccepted {
			n.deny(p)
			return stored, a
		}
	}
	g.t.Fatal("the spool never becomes full")
	return 0, answer{}
}

// padded makes 64 KiB of a payload; unpadded takes it back.
func padded(p string) string { return p + strings.Repeat(" ", 64<<10-len(p)) }

func unpadded(messages []devbroker.Message) []string {
	out := payloadsOf(messages)
	for i := range out {
		out[i] = strings.TrimSpace(out[i])
	}
	return out
}

func TestFullSpool(t *testing.T) {
	t.Parallel()
	s, listen := newLateSite(t)
	n := newNumbered()
	g := startGateway(t, s.yardConfig(oneDevice)+smallSpool, s.Files)
	stored, a := g.fill(n)
	if stored < 10 || stored > 16 {
		t.Errorf("%d readings of 64 KiB went into 1 MiB", stored)
	}
	if a.Status != http.StatusInsufficientStorage || a.RetryAfter == "" || a.RetryAfter == "0" ||
		a.Type != "application/problem+json" || !strings.Contains(a.Detail, "max_bytes") {
		t.Errorf("answer %+v, want 507 with Retry-After", a)
	}
	g.awaitSpooled(stored) // what was refused is not kept
	listen()
	g.awaitUp()
	g.awaitEmpty()
	p := n.next("app")
	if a := g.post("app", "", "text/plain", padded(p)); a.Status != http.StatusOK {
		t.Errorf("answer %+v when there is room again", a)
	}
	g.stop()
	n.check(t, unpadded(s.Broker.Messages()), false)
	if got := len(s.Broker.Messages()); got != stored+1 {
		t.Errorf("the broker got %d readings, want %d", got, stored+1)
	}
}

func TestFullSpoolDropsTheOldest(t *testing.T) {
	t.Parallel()
	s, listen := newLateSite(t)
	n := newNumbered()
	g := startGateway(t, s.yardConfig(oneDevice)+smallSpool+"when_full = \"drop-oldest\"\n", s.Files)
	const sent = 40
	for range sent {
		expectStored(t, g.post("app", "", "text/plain", padded(n.next("app"))))
	}
	st := g.gw.spool.Stats()
	if st.DroppedFull == 0 || st.Readings+st.DroppedFull != sent {
		t.Errorf("%d readings in the spool, %d dropped, want %d together", st.Readings, st.DroppedFull, sent)
	}
	for i := range st.DroppedFull {
		n.deny(fmt.Sprintf("app#%d", i+1))
	}
	listen()
	g.awaitUp()
	g.awaitEmpty()
	g.stop()
	got := unpadded(s.Broker.Messages())
	n.check(t, got, false)
	if len(got) != int(st.Readings) {
		t.Errorf("the broker got %d readings, want %d", len(got), st.Readings)
	}
}

// TestRefusals has the broker refuse one reading among many, by each way in.
func TestRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		code      byte
		temporary bool // the broker is asked until it takes the reading
	}{{code: 0x80}, {code: 0x83}, {code: 0x87}, {code: 0x90}, {code: 0x97, temporary: true}, {code: 0x99}} {
		t.Run(fmt.Sprintf("0x%02X", c.code), func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			port := openPTY(t)
			n := newNumbered()
			bad := []string{"pump-1#25", "app#3"}
			s.Broker.RefusePublishes(func(m devbroker.Message) byte {
				if slices.Contains(bad, string(m.Payload)) {
					return c.code
				}
				return 0
			})
			ack := "30s"
			if c.temporary {
				ack = "300ms"
			}
			g := startGateway(t, "ack_timeout = \""+ack+"\"\n"+s.config("", "", fmt.Sprintf(scaleText, port.Path)), s.Files)
			g.awaitUp()
			writeLines(n, port, 50)
			for range 5 {
				p := n.next("app")
				a := g.post("app", "", "text/plain", p)
				switch {
				case p == "app#3" && !c.temporary:
					if a.Status != http.StatusUnprocessableEntity || a.ReasonCode != int(c.code) {
						t.Errorf("%s: answer %+v, want 422", p, a)
					}
				case a.Status/100 != 2:
					t.Errorf("%s: answer %+v", p, a)
				}
			}
			s.await("pump-1", 49)
			s.await("app", 4)
			if c.temporary {
				if dead := g.deadReadings(); len(dead) > 0 {
					t.Errorf("dead letters %v: the broker only asked for patience", dead)
				}
				s.Broker.RefusePublishes(nil)
			} else {
				eventually(t, "the dead letter", func() bool { return len(g.deadReadings()) > 0 })
				if diff := cmp.Diff(map[string]byte{"pump-1#25": c.code}, g.deadReadings()); diff != "" {
					t.Errorf("dead letters (-want +got):\n%s", diff)
				}
			}
			g.awaitEmpty()
			g.stop()
			for _, p := range bad {
				n.deny(p)
			}
			// In flight beside others, what was refused for now comes after them.
			var good []string
			late := map[string]int{}
			for _, p := range payloadsOf(s.Broker.Messages()) {
				if slices.Contains(bad, p) {
					late[p]++
				} else {
					good = append(good, p)
				}
			}
			// A reconnect, which 0x87 asks for, may repeat what was in flight.
			n.check(t, good, c.code == 0x87)
			want := map[string]int{}
			if c.temporary {
				want = map[string]int{bad[0]: 1, bad[1]: 1}
			}
			if diff := cmp.Diff(want, late); diff != "" {
				t.Errorf("refused readings at the broker (-want +got):\n%s", diff)
			}
		})
	}
}

// TestDamagedSpool has a file that is no database any more, and one with a hole,
// where the spool was.
func TestDamagedSpool(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		damage func(f *os.File, size int64) error
	}{
		{"garbage", func(f *os.File, size int64) error {
			_, err := f.WriteAt([]byte(strings.Repeat("no database ", int(size)/12)), 0)
			return err
		}},
		{"hole", func(f *os.File, size int64) error {
			_, err := f.WriteAt(make([]byte, size/2), size/4)
			return err
		}},
		{"cut off", func(f *os.File, size int64) error { return f.Truncate(size/2 + 100) }},
		{"empty", func(f *os.File, _ int64) error { return f.Truncate(0) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, listen := newLateSite(t)
			n := newNumbered()
			g := startGateway(t, s.yardConfig(oneDevice), s.Files)
			for range 200 {
				expectStored(t, g.post("app", "", "text/plain", n.next("app")))
			}
			g.stop()
			f, err := os.OpenFile(filepath.Join(g.state(), "spool.db"), os.O_RDWR, 0)
			if err != nil {
				t.Fatal(err)
			}
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.damage(f, info.Size()); err != nil {
				t.Fatal(err)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			for i := range 200 {
				n.deny(fmt.Sprintf("app#%d", i+1)) // what can be read of them is taken over
			}
			g = g.restart()
			expectStored(t, g.post("app", "", "text/plain", n.next("app")))
			if st := g.gw.spool.Stats(); st.Databases != 1 && c.name != "empty" {
				t.Errorf("%d databases were set aside, want 1", st.Databases)
			}
			listen()
			g.awaitUp()
			g.awaitEmpty()
			if a := g.post("app", "", "text/plain", n.next("app")); a.Status != http.StatusOK {
				t.Errorf("answer %+v", a)
			}
			g.stop()
			n.check(t, payloadsOf(s.Broker.Messages()), false)
			t.Logf("%d of 202 readings arrived", len(s.Broker.Messages()))
		})
	}
}
