package bridge_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

const answerTopic = "/apps/s3cr3t/answers"

// echoing answers each downlink with its payload.
func echoing(contentType string) *bridgetest.Deliverer {
	return &bridgetest.Deliverer{Reply: func(d bridge.Downlink) *bridge.Answer {
		return &bridge.Answer{Payload: []byte("re " + string(d.Payload)), ContentType: contentType}
	}}
}

// ask sends a downlink that wants an answer.
func (r *router) ask(id bridge.DeviceID, payload string) {
	d := downlink(id, "", payload)
	d.ResponseTopic, d.CorrelationData = answerTopic, []byte("for "+payload)
	r.Downlink(d, bridge.Origin{}, r.note(payload))
}

func (r *router) counted(answers, dropped int64) {
	r.t.Helper()
	synctest.Wait()
	if c := r.Counts(); c.Answers != answers || c.AnswersDropped != dropped {
		r.t.Errorf("counted %d answers and %d that were dropped, want %d and %d", c.Answers, c.AnswersDropped, answers, dropped)
	}
	if strings.Contains(r.log.String(), "s3cr3t") {
		r.t.Errorf("the log has the response topic:\n%s", r.log)
	}
}

// An answer takes its place among its device's readings.
func TestAnswerGoesUp(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		r.route("a", "", "t", echoing("application/json; charset=utf-8"))
		r.run()
		r.submit(t, "a", "1")
		synctest.Wait()
		r.ask("a", "x")
		r.left()
		r.submit(t, "a", "2")
		r.ack(t, "1")
		f := r.next(t, "re x")
		want := bridge.Reading{Device: "a", ContentType: "application/json; charset=utf-8", Payload: []byte("re x"),
			ResponseTopic: answerTopic, CorrelationData: []byte("for x"), ID: f.Reading.ID, Time: f.Reading.Time}
		if diff := cmp.Diff(want, f.Reading); diff != "" || f.Reading.ID.Version() != 7 || f.Reading.Time.IsZero() {
			t.Errorf("(-want +got):\n%s", diff)
		}
		f.Ack()
		r.ack(t, "2")
		r.empty(t)
		r.counted(1, 0)
	})
}

func TestAnswerThatNobodyWants(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		r.route("a", "", "t", echoing("text/plain"))
		r.run()
		r.send("a", "", "x")
		r.left()
		r.empty(t)
		r.counted(0, 0)
	})
}

func TestAnswerOfUnknownType(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		r.route("a", "", "t", echoing("image/png"))
		r.run()
		r.ask("a", "x")
		f := r.next(t, "re x")
		if f.Reading.ContentType != "application/octet-stream" {
			t.Errorf("content type %q", f.Reading.ContentType)
		}
		f.Ack()
		r.empty(t)
	})
}

// What refuses a downlink for good may say so to who has sent it; what will be
// tried again says nothing yet.
func TestAnswerWithAnError(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		to := echoing("text/plain")
		to.Answer = fails(2, &bridge.DeliveryError{Err: errDisk, Permanent: true})
		r.route("a", "", "t", to)
		r.run()
		r.ask("a", "x")
		time.Sleep(time.Minute)
		wantAttempts(t, to, "x", "x", "x")
		r.ack(t, "re x")
		r.left()
		r.empty(t)
		if d := r.sp.Dead(); len(d) != 1 || d[0].Downlink.ID != "x" {
			t.Errorf("dead letters %v", d)
		}
		r.counted(1, 0)
	})
}

// fails is a Deliverer's Answer: so many errors that pass, then this one.
func fails(n int, last error) func(context.Context, bridge.Downlink, int) error {
	return func(_ context.Context, _ bridge.Downlink, attempt int) error {
		if attempt <= n {
			return errDisk
		}
		return last
	}
}

// An answer that can never be sent does not hold up the downlinks behind it.
func TestAnswerDropped(t *testing.T) {
	for name, tt := range map[string]struct {
		prepare func(*testing.T, *router)
		log     string
	}{
		"too large": {func(t *testing.T, r *router) {
			c := bridge.Changes{Connect: map[bridge.DeviceID]bridge.Connection{"a": {Uplink: r.up, MaxPayload: 3}}}
			if err := r.Change(c); err != nil {
				t.Fatal(err)
			}
		}, "payload too large"},
		"device is gone": {func(t *testing.T, r *router) {
			if err := r.Change(bridge.Changes{Disconnect: []bridge.DeviceID{"a"}}); err != nil {
				t.Fatal(err)
			}
		}, "unknown device"},
	} {
		t.Run(name, func(t *testing.T) {
			routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
				to := echoing("text/plain")
				r.route("a", "", "t", to)
				r.route("b", "", "t", to)
				r.ask("a", "x")
				synctest.Wait()
				tt.prepare(t, r)
				r.run()
				r.ask("b", "y")
				r.ack(t, "re y")
				r.left()
				wantAttempts(t, to, "x", "y")
				r.counted(1, 1)
				if s := r.log.String(); !strings.Contains(s, "answer to a downlink dropped") || !strings.Contains(s, tt.log) {
					t.Errorf("log:\n%s", s)
				}
			})
		})
	}
}

// A full spool: the broker takes the answer at once, or it waits, and the
// downlink with it.
func TestAnswerAndFullSpool(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
		to := echoing("text/plain")
		r.route("a", "", "t", to)
		r.run()
		r.sp.SetLimit(1)
		r.sp.Insert(reading("c", "in the way"))
		r.ask("a", "1")
		r.ack(t, "re 1")
		r.left()
		r.down()
		r.ask("a", "2")
		time.Sleep(10 * time.Minute)
		r.left("2")
		r.nothing(t)
		r.sp.SetLimit(0)
		time.Sleep(time.Minute)
		r.left()
		wantAttempts(t, to, "1", "2") // delivered once, whatever became of the answer
		r.up.SetTrouble("")
		r.ack(t, "re 2")
		r.counted(2, 0)
	})
}

// An answer that finds no room until its downlink expires is given up.
func TestAnswerExpires(t *testing.T) {
	routing(t, bridge.DeliveryPolicy{MaxAge: time.Hour}, func(t *testing.T, r *router) {
		to := echoing("text/plain")
		r.route("a", "", "t", to)
		r.run()
		r.sp.SetLimit(1)
		r.sp.Insert(reading("c", "in the way"))
		r.down()
		r.ask("a", "x")
		time.Sleep(59 * time.Minute)
		r.left("x")
		time.Sleep(2 * time.Minute)
		r.left()
		wantAttempts(t, to, "x")
		r.counted(0, 1)
	})
}

// Wherever a crash comes, the answer is durable or the downlink is delivered and
// answered again.
func TestAnswerSurvivesCrash(t *testing.T) {
	outcomes := map[string]int{}
	for steps := range 6 {
		for _, sync := range []bool{false, true} { // stored, and the gateway does not know it yet
			synctest.Test(t, func(t *testing.T) {
				r := &router{t: t, rig: newRigOn(t, bridge.Options{}, &bridgetest.Spool{Manual: true})}
				to := echoing("text/plain")
				r.route("a", "", "t", to)
				r.run()
				r.ask("a", "y")
				for range steps {
					synctest.Wait()
					r.sp.Commit(1)
				}
				if sync {
					synctest.Wait()
					r.sp.Sync(1)
				}
				synctest.Wait()
				r.mu.Lock()
				told := len(r.done) == 1
				r.mu.Unlock()
				before := len(to.Attempts())
				next := r.restart(t, bridge.Options{})
				next.sp.Manual = false
				r.cancel()
				synctest.Wait()
				again := &router{t: t, rig: next}
				to = echoing("text/plain")
				again.route("a", "", "t", to)
				rows, downlinks := len(next.sp.Rows()), len(next.sp.StoredDownlinks())
				outcomes[fmt.Sprintf("%d attempts, %d answers and %d downlinks stored", before, rows, downlinks)]++
				if !told && rows+downlinks == 0 {
					return // the broker sends the downlink again
				}
				if rows+downlinks == 0 {
					t.Fatalf("after %d commits the answer is lost", steps)
				}
				again.run()
				for range rows + downlinks {
					again.ack(t, "re y")
				}
				again.left()
				again.empty(t)
				again.stop()
			})
		}
	}
	t.Log(outcomes)
	for _, want := range []string{
		"1 attempts, 0 answers and 1 downlinks stored", // not answered durably
		"1 attempts, 1 answers and 1 downlinks stored", // between answer and delete
		"1 attempts, 1 answers and 0 downlinks stored",
	} {
		if outcomes[want] == 0 {
			t.Errorf("no crash left %s", want)
		}
	}
}

// A gateway that stops waits a moment for an answer on its way to the disk.
func TestAnswerAtTheEnd(t *testing.T) {
	for _, stuck := range []bool{false, true} {
		t.Run(fmt.Sprint("stuck: ", stuck), func(t *testing.T) {
			routing(t, bridge.DeliveryPolicy{}, func(t *testing.T, r *router) {
				r.route("a", "", "t", echoing("text/plain"))
				r.ask("a", "x")
				synctest.Wait()
				r.sp.Manual = true
				r.run()
				synctest.Wait()
				began := time.Now()
				r.cancel()
				time.Sleep(500 * time.Millisecond)
				if !stuck {
					r.commit()
				}
				if err := <-r.ended; err != nil {
					t.Error(err)
				}
				want := 500 * time.Millisecond
				if stuck {
					want = time.Second
				}
				if d := time.Since(began); d != want {
					t.Errorf("ended after %s, want %s", d, want)
				}
				r.commit()
				if stuck {
					r.left("x")
				} else {
					r.left()
				}
				r.ack(t, "re x")
				r.commit()
			})
		})
	}
}
