package bridge_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

var async = bridge.Handling{Async: true}

// A PUBACK that is late moves everything of the lane that is in memory to the
// spool: in order, in one commit.
func TestLatePuback(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Second}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1", "2")
		f := []*bridgetest.Flight{r.next(t, "1"), r.next(t, "2")}
		time.Sleep(600 * time.Millisecond)
		got := r.accept(t, reading("a", "3"))
		r.submit(t, "b", "x")
		synctest.Wait()
		f = append(f, r.any(t), r.any(t))
		time.Sleep(399 * time.Millisecond)
		r.appends(t, 0)
		time.Sleep(time.Millisecond)
		r.appends(t, 1)
		r.stored(t, "1", "2", "3")
		wantState(t, got, bridge.Spooled)
		for _, f := range f {
			f.Ack()
		}
		r.empty(t)
		// With the backlog gone it is as before.
		direct := r.accept(t, reading("a", "4"))
		r.ack(t, "4")
		wantState(t, direct, bridge.Delivered)
		r.appends(t, 1)
	})
}

// The PUBACK comes while the reading is being stored.
func TestPubackDuringAppend(t *testing.T) {
	for name, tt := range map[string]struct {
		end  func(*bridgetest.Flight)
		dead int
	}{
		"acked":   {func(f *bridgetest.Flight) { f.Ack() }, 0},
		"refused": {func(f *bridgetest.Flight) { f.Refuse(0x99, "") }, 1},
	} {
		for _, fails := range []bool{false, true} {
			t.Run(fmt.Sprint(name, ", append fails: ", fails), func(t *testing.T) {
				bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
					r.sp.Manual = true
					got := r.accept(t, reading("a", "1"))
					f := r.next(t, "1")
					time.Sleep(time.Second)
					r.appends(t, 1)
					unanswered(t, got)
					tt.end(f)
					if a := answer(t, got); (a.err != nil) != (tt.dead > 0) || a.err == nil && a.receipt.State != bridge.Delivered {
						t.Errorf("got %+v, %v", a.receipt, a.err)
					}
					r.held(t, 1)
					if fails {
						r.sp.Fail(bridge.ErrSpoolFull)
						tt.dead = 0 // its sender knows, and nothing is stored
					}
					r.commit()
					r.empty(t)
					if d := r.sp.Dead(); len(d) != tt.dead {
						t.Errorf("dead letters: %v", d)
					}
				})
			})
		}
	}
}

// A reading without anyone to tell becomes a dead letter also if it was refused
// while it could not be stored.
func TestSubmittedRefusedDuringAppend(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		r.submit(t, "a", "1")
		f := r.next(t, "1")
		time.Sleep(time.Second)
		synctest.Wait()
		r.sp.Fail(bridge.ErrSpoolFull)
		f.Refuse(0x99, "")
		r.sp.Commit(1)
		r.sp.Fail(nil)
		r.sp.Commit(1)
		if d := r.sp.Dead(); len(d) != 1 || d[0].Epitaph.Code != 0x99 {
			t.Errorf("dead letters: %v", d)
		}
		r.empty(t)
	})
}

func TestLinkIsDown(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		r.up.SetTrouble("the broker is away")
		got := r.accept(t, reading("a", "1"))
		r.appends(t, 1)
		r.submit(t, "a", "2")
		unanswered(t, got)
		r.sp.Commit(1)
		wantState(t, got, bridge.Spooled)
		r.sp.Commit(1)
		r.stored(t, "1", "2")
		r.held(t, 0) // nothing stays in memory
		r.up.SetTrouble("")
		r.ack(t, "1", "2")
		r.commit()
		r.empty(t)
	})
}

// What is with the session when the link fails is stored at once, of this uplink
// only, and nobody waits any longer.
func TestLinkDown(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		other := &bridgetest.Uplink{}
		if err := r.Connect("other", bridge.Connection{Uplink: other}); err != nil {
			t.Fatal(err)
		}
		r.submit(t, "other", "o")
		r.submit(t, "a", "1")
		r.next(t, "1")
		got := r.accept(t, reading("a", "2"))
		keyed := r.acceptHow(t.Context(), reading("b", "x"), bridge.Handling{Key: bridge.Key{Value: "k"}})
		synctest.Wait()
		unanswered(t, keyed) // it is stored and waits for the broker
		r.down()
		wantState(t, got, bridge.Spooled)
		wantState(t, keyed, bridge.Spooled)
		r.stored(t, "x", "1", "2")
		r.held(t, 3) // 1 is with the session; x was not taken out, the other's is direct
		r.up.Lose()
		r.submit(t, "a", "3")
		r.submit(t, "b", "y")
		r.held(t, 1)
		r.up.SetTrouble("")
		seen := map[bridge.DeviceID]string{}
		for range 5 {
			f := r.any(t)
			seen[f.Reading.Device] += string(f.Reading.Payload)
			f.Ack()
		}
		if seen["a"] != "123" || seen["b"] != "xy" {
			t.Errorf("sent: %v", seen)
		}
		r.stored(t)
	})
}

// The order of a device holds from direct over the backlog to direct again, and
// new readings go behind a backlog.
func TestNeverOvertaken(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1", "2")
		r.next(t, "1")
		time.Sleep(time.Second)
		r.stored(t, "1", "2")
		r.submit(t, "a", "3")
		r.stored(t, "1", "2", "3")
		got := r.accept(t, reading("a", "4"))
		wantState(t, got, bridge.Spooled)
		r.up.Lose()
		r.down()
		r.submit(t, "a", "5", "6")
		r.up.SetTrouble("")
		r.submit(t, "a", "7")
		f := r.next(t, "1")
		r.submit(t, "a", "8")
		f.Ack()
		r.ack(t, "2", "3", "4", "5", "6", "7", "8")
		n := r.sp.Appends()
		r.submit(t, "a", "9")
		r.ack(t, "9")
		r.empty(t)
		r.appends(t, n)
	})
}

// The window fills from the backlog, and pages are bounded.
func TestDrainIsPipelined(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		const n, size, window = 1000, 1000, 100
		r.down()
		for i := range n {
			r.submit(t, "a", fmt.Sprintf("%-*d", size, i))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		r.held(t, 0)
		if l := r.sp.Loads(); len(l) != 0 {
			t.Fatalf("loaded while the link was down: %v", l)
		}
		r.up.Window = window
		r.up.SetTrouble("")
		sent := 0
		var flights []*bridgetest.Flight
		for sent < n {
			for {
				synctest.Wait()
				f := r.up.Pull()
				if f == nil {
					synctest.Wait()
					if f = r.up.Pull(); f == nil {
						break
					}
				}
				if want := fmt.Sprintf("%-*d", size, sent); string(f.Reading.Payload) != want {
					t.Fatalf("%.8q sent, want %.8q", f.Reading.Payload, want)
				}
				sent++
				flights = append(flights, f)
			}
			if len(flights) != min(window, n-sent+len(flights)) {
				t.Fatalf("%d in flight after %d, the window is %d", len(flights), sent, window)
			}
			if used := r.Used(); used > (window+1)*(size+400)+2*bridge.PageBytes {
				t.Fatalf("%d bytes in memory", used)
			}
			if err := r.CheckLanes(); err != nil {
				t.Fatal(err)
			}
			k := min(len(flights), 30)
			for _, f := range flights[:k] {
				f.Ack()
			}
			flights = flights[k:]
		}
		for _, f := range flights {
			f.Ack()
		}
		r.empty(t)
		for _, b := range r.sp.Loads() {
			if b > bridge.PageBytes {
				t.Errorf("a page of %d bytes", b)
			}
		}
	})
}

// Pages are smaller, down to one reading, when many lanes are drained at once.
func TestPagesShareMemory(t *testing.T) {
	bubble(t, bridge.Options{MemoryBudget: 2 << 20}, func(t *testing.T, r *rig) {
		const devices, each, size = 300, 20, 2000
		var ids []bridge.DeviceID
		for i := range devices {
			ids = append(ids, bridge.DeviceID(fmt.Sprint("d", i)))
			if err := r.Connect(ids[i], bridge.Connection{Uplink: r.up}); err != nil {
				t.Fatal(err)
			}
		}
		r.down()
		for i := range each {
			for _, id := range ids {
				r.submit(t, id, fmt.Sprintf("%-*d", size, i))
			}
			synctest.Wait()
		}
		r.held(t, 0)
		r.sp.ManualLoads = true
		r.up.SetTrouble("")
		for r.up.Pull() != nil {
		}
		if n := r.sp.Loading(); n != devices {
			t.Fatalf("%d lanes load, want %d", n, devices)
		}
		r.sp.Answer(devices)
		if used := r.Used(); used > 2<<20 {
			t.Errorf("%d bytes in memory, the budget is %d", used, 2<<20)
		}
		// A live device is served meanwhile.
		got := r.accept(t, reading("a", "live"))
		synctest.Wait()
		for {
			f := r.up.Pull()
			if f == nil {
				t.Fatal("the live reading was not sent")
			}
			f.Ack()
			if string(f.Reading.Payload) == "live" {
				break
			}
		}
		if a := answer(t, got); a.err != nil {
			t.Error(a.err)
		}
		r.sp.ManualLoads = false
		r.sp.Answer(devices)
		synctest.Wait()
		for left := true; left; {
			synctest.Wait()
			left = false
			for f := r.up.Pull(); f != nil; f = r.up.Pull() {
				f.Ack()
				left = true
			}
			r.sp.Answer(devices)
		}
		r.empty(t)
	})
}

// A device that has something in flight all the time is late once: then it is
// spooled until that is over, and no longer.
func TestBacklogEndsUnderLoad(t *testing.T) {
	bubble(t, bridge.Options{AckTimeout: time.Second}, func(t *testing.T, r *rig) {
		const delay, every = 3, 100 * time.Millisecond // PUBACKs come three readings later
		var flights []*bridgetest.Flight
		appends := 0
		for i := range 100 {
			r.submit(t, "a", fmt.Sprint(i))
			synctest.Wait()
			for f := r.up.Pull(); f != nil; f = r.up.Pull() {
				flights = append(flights, f)
			}
			if i == 20 {
				time.Sleep(2 * time.Second)
			}
			time.Sleep(every)
			for len(flights) > delay {
				flights[0].Ack()
				flights = flights[1:]
			}
			synctest.Wait()
			if i == 40 {
				appends = r.sp.Appends()
			}
		}
		if appends == 0 {
			t.Error("nothing was late")
		}
		r.appends(t, appends)
		for _, f := range flights {
			f.Ack()
		}
		r.empty(t)
	})
}

// A device with a backlog and a bad time does not hold up another.
func TestBacklogBlocksNobody(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.down()
		r.submit(t, "a", "1", "2")
		r.up.SetTrouble("")
		r.next(t, "1").Retry(0x97, 0)
		got := r.accept(t, reading("b", "x"))
		r.ack(t, "x")
		wantState(t, got, bridge.Delivered)
		r.stored(t, "1", "2")
		r.ack(t, "1", "2")
		r.empty(t)
	})
}

func TestSpoolFirst(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.sp.Manual = true
		r.submit(t, "s", "1")
		got := r.accept(t, reading("s", "2"))
		r.nothing(t)
		r.sp.Sync(1)
		r.nothing(t) // stored, but the lane does not know it yet
		r.sp.Commit(0)
		r.next(t, "1").Ack()
		r.nothing(t)
		unanswered(t, got)
		r.commit()
		wantState(t, got, bridge.Spooled) // it was behind a backlog
		r.ack(t, "2")
		got = r.accept(t, reading("s", "3"))
		r.nothing(t)
		r.commit()
		r.next(t, "3").Ack()
		wantState(t, got, bridge.Delivered)
		r.sp.Commit(9)
		r.empty(t)
	})
}

// With SpoolFirst the answer after the timeout is that the reading is stored.
func TestSpoolFirstLatePuback(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		got := r.accept(t, reading("s", "1"))
		f := r.next(t, "1")
		unanswered(t, got)
		time.Sleep(time.Second)
		wantState(t, got, bridge.Spooled)
		r.appends(t, 1)
		f.Ack()
		r.empty(t)
	})
}

func TestAsync(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.submit(t, "a", "1")
		got := r.acceptHow(t.Context(), reading("a", "2"), async)
		wantState(t, got, bridge.Spooled)
		r.stored(t, "1", "2")
		r.appends(t, 1)
		r.ack(t, "1", "2")
		r.empty(t)
	})
}

// A refusal of what is stored is kept as a dead letter with its code, also when
// somebody waits, who is told.
func TestStoredIsRefused(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		got := r.accept(t, reading("s", "1"))
		r.next(t, "1").Refuse(0x95, "packet too large")
		var re *bridge.RejectedError
		if a := answer(t, got); !errors.As(a.err, &re) || re.Code != 0x95 {
			t.Errorf("error %v", a.err)
		}
		r.down()
		r.submit(t, "a", "2", "3")
		r.up.SetTrouble("")
		r.next(t, "2").Refuse(0x99, "payload format invalid")
		r.ack(t, "3")
		r.empty(t)
		var dead []string
		for _, d := range r.sp.Dead() {
			dead = append(dead, fmt.Sprintf("%s %#x %s", d.Reading.Payload, d.Epitaph.Code, d.Epitaph.Reason))
		}
		if want := []string{"1 0x95 packet too large", "2 0x99 payload format invalid"}; !slices.Equal(dead, want) {
			t.Errorf("dead letters %q, want %q", dead, want)
		}
		if !strings.Contains(r.log.String(), "dead letter") {
			t.Errorf("log:\n%s", r.log)
		}
	})
}

// A page that arrives after entries before it were taken out of memory is read
// again, behind them.
func TestPageArrivesAfterEviction(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		const size = 40_000 // two a page
		r.down()
		for i := range 4 {
			r.submit(t, "a", fmt.Sprintf("%-*d", size, i))
		}
		synctest.Wait()
		r.sp.ManualLoads = true
		r.up.SetTrouble("")
		r.nothing(t)
		r.sp.Answer(1)
		for r.up.Pull() != nil {
		}
		if r.sp.Loading() != 1 || len(r.up.InFlight()) == 0 {
			t.Fatalf("%d loads, %d in flight", r.sp.Loading(), len(r.up.InFlight()))
		}
		r.down()
		r.up.Lose()
		r.submit(t, "a", fmt.Sprintf("%-*d", size, 4))
		r.held(t, 0) // the first page is out of memory again
		r.sp.Answer(1)
		r.sp.ManualLoads = false
		r.up.SetTrouble("")
		for i := range 5 {
			r.next(t, fmt.Sprintf("%-*d", size, i)).Ack()
		}
		r.empty(t)
	})
}

// A reading that the broker refuses for now is counted for as long as it takes,
// however much the lane has to let go of.
func TestTriesAreCountedWithABacklog(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		poison := strings.Repeat("p", 100_000)
		r.submit(t, "a", poison)
		for i := range 3 {
			r.next(t, poison).Retry(0x80, 3)
			time.Sleep(time.Second)
			r.submit(t, "a", fmt.Sprint(i))
			synctest.Wait()
		}
		r.ack(t, "0", "1", "2")
		r.empty(t)
		if d := r.sp.Dead(); len(d) != 1 || d[0].Epitaph.Code != 0x80 {
			t.Errorf("%d dead letters", len(d))
		}
	})
}

func TestLoadIsRetried(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.down()
		r.submit(t, "a", "1", "2")
		synctest.Wait()
		r.sp.FailReads(errors.New("read: input/output error"))
		r.up.SetTrouble("")
		r.nothing(t)
		r.submit(t, "b", "x")
		r.ack(t, "x")
		for range 3 {
			time.Sleep(bridge.LoadRetry)
			r.nothing(t)
		}
		r.sp.FailReads(nil)
		r.ack(t, "1", "2")
		r.empty(t)
		if n := strings.Count(r.log.String(), "backlog not read"); n != 4 {
			t.Errorf("%d of 4 lines in the log:\n%s", n, r.log)
		}
	})
}

// What the spool drops is not waited for.
func TestDropOldest(t *testing.T) {
	bubble(t, bridge.Options{}, func(t *testing.T, r *rig) {
		r.down()
		r.submit(t, "a", "1", "2", "3")
		synctest.Wait()
		r.submit(t, "b", "x")
		synctest.Wait()
		r.sp.DropOldest(2)
		r.up.SetTrouble("")
		seen := []string{string(r.any(t).Reading.Payload), string(r.any(t).Reading.Payload)}
		slices.Sort(seen)
		if !slices.Equal(seen, []string{"3", "x"}) {
			t.Errorf("sent: %q", seen)
		}
		for _, f := range r.up.InFlight() {
			f.Ack()
		}
		r.empty(t)
		r.down()
		r.submit(t, "a", "4", "5")
		synctest.Wait()
		r.sp.DropOldest(2)
		r.up.SetTrouble("")
		r.nothing(t)
		got := r.accept(t, reading("a", "6"))
		r.ack(t, "6")
		wantState(t, got, bridge.Delivered)
		r.empty(t)
	})
}
