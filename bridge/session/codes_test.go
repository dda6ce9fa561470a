package session

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

// answers is the whole table of what a session does with a reason code from 0x80
// on (MQTT v5 section 2.4), in CONNACK and in DISCONNECT.
var answers = []struct {
	code                byte
	connack, disconnect pauseClass
	alarm               bool // in CONNACK; in DISCONNECT unless it is normal there
	hint                string
}{
	{0x80, normal, normal, false, ""},
	{0x81, slow, slow, true, "report it"},
	{0x82, slow, slow, true, "report it"},
	{0x83, normal, normal, false, ""},
	{0x84, slow, slow, true, "does not speak MQTT v5"},
	{0x85, slow, slow, true, "check the device id"},
	{0x86, slow, slow, true, "public key"},
	{0x87, slow, slow, true, "public key"},
	{0x88, normal, normal, false, ""},
	{0x89, normal, normal, false, ""},
	{0x8A, slow, slow, true, "banned this client"},
	{0x8B, normal, normal, false, ""},
	{0x8C, slow, slow, true, "another way to log in"},
	{0x8D, normal, normal, false, ""},
	{0x8E, long, long, true, "second gateway"},
	{0x8F, normal, normal, false, ""},
	{0x90, normal, normal, false, "topics"},
	{0x91, normal, normal, false, ""},
	{0x92, normal, normal, false, ""},
	{0x93, normal, normal, false, ""},
	{0x94, normal, normal, false, ""},
	{0x95, normal, normal, false, "max_payload"},
	{0x96, normal, normal, false, "slowed down"},
	{0x97, slow, normal, true, "limits of the account"},
	{0x98, long, long, true, "ended the session"},
	{0x99, normal, normal, false, ""},
	{0x9A, slow, slow, true, ""},
	{0x9B, slow, slow, true, "QoS 1"},
	{0x9C, slow, slow, true, "names no server"},
	{0x9D, slow, slow, true, "names no server"},
	{0x9E, slow, slow, true, "report it"},
	{0x9F, normal, normal, false, "connect_rate"},
	{0xA0, normal, normal, false, ""}, // at once after a connection that lasted
	{0xA1, slow, slow, true, "report it"},
	{0xA2, slow, slow, true, "wildcards"},
	{0xFE, normal, normal, false, "unknown reason code"},
}

func TestAnswersAreComplete(t *testing.T) {
	var have []byte
	for _, a := range answers {
		have = append(have, a.code)
	}
	want := []byte{0xFE}
	for code := range codeNames {
		if code >= 0x80 {
			want = append(want, code)
		}
	}
	slices.Sort(want)
	if !slices.Equal(have, want) {
		t.Errorf("the table has % X, the standard has % X", have, want)
	}
	for code := range reactions {
		if !slices.Contains(have, code) {
			t.Errorf("a reaction to 0x%02X, which is not in the table", code)
		}
	}
}

// distinct pauses tell the classes apart, whatever the jitter.
var distinct = Backoff{Min: time.Second, Max: time.Second, SlowMin: time.Hour, SlowMax: time.Hour, LongMin: 100 * time.Hour, LongMax: 100 * time.Hour}

// classOf is the class whose pauses these are. Slow ones are below 3 s once in a
// thousand times, which a dozen of them are not.
func classOf(longest time.Duration) pauseClass {
	switch {
	case longest <= 110*time.Millisecond:
		return soon
	case longest <= 2*time.Second:
		return normal
	case longest <= time.Hour+time.Second:
		return slow
	}
	return long
}

// nextWithin is next with another patience, of the bubble's time.
func (s *server) nextWithin(t *testing.T, d time.Duration) *peer {
	t.Helper()
	select {
	case p := <-s.conns:
		receiveConnect(p)
		return p
	case <-time.After(d):
		t.Fatalf("no connection came within %s", d)
		return nil
	}
}

// A refusal of CONNECT and a DISCONNECT by the broker each end in the right
// class of pause, a message that says what to do, an alarm where only a person
// helps, one line in the log however often it repeats, and a count.
func TestAnswers(t *testing.T) {
	const rounds = 12
	for _, packet := range []string{"CONNACK", "DISCONNECT"} {
		for _, a := range answers {
			class, alarm := a.connack, a.alarm
			if packet == "DISCONNECT" {
				class = a.disconnect
				alarm = alarm && class != normal
			}
			t.Run(fmt.Sprintf("%s 0x%02X", packet, a.code), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					srv := newServer(t)
					counts := &Counts{}
					r := start(t, srv, func(o *Options) {
						o.Secrets = []bridge.Secret{bridge.NewSecret(secret)}
						o.Backoff, o.Counts = distinct, counts
					})
					var longest time.Duration
					p := srv.nextWithin(t, time.Second)
					for range rounds {
						if packet == "CONNACK" {
							p.connack(a.code, false, &packets.Properties{ReasonString: "no: /up/" + secret + "/id/x"})
						} else {
							p.connack(0, true, nil)
							synctest.Wait()
							p.disconnect(a.code, "topic /up/"+secret)
							p.cut()
						}
						answered := time.Now()
						p.gone()
						synctest.Wait()
						st := r.State()
						for _, w := range []string{a.hint, fmt.Sprintf("%s 0x%02X (%s)", packet, a.code, CodeName(a.code))} {
							if !strings.Contains(st.Trouble, w) && !(a.code == 0x97 && w == a.hint) {
								t.Fatalf("trouble %q, want %q in it", st.Trouble, w)
							}
						}
						if st.Up || st.Alarm != alarm {
							t.Fatalf("state %+v, want alarm %t", st, alarm)
						}
						p = srv.nextWithin(t, 1000*time.Hour)
						longest = max(longest, time.Since(answered))
					}
					if got := classOf(longest); got != class {
						t.Errorf("the longest pause was %s: class %d, want %d", longest, got, class)
					}
					level, want := "level=WARN", 1
					if alarm {
						level = "level=ERROR"
					}
					if packet == "DISCONNECT" {
						want = rounds // the session was up each time
					}
					if n := len(r.log.lines(level, "session down", "retry_in=")); n != want {
						t.Errorf("%d lines with %s, want %d:\n%s", n, level, want, r.log)
					}
					if got := maps.Collect(counts.Codes())[packet][a.code]; got != rounds {
						t.Errorf("%s 0x%02X was counted %d times, want %d", packet, a.code, got, rounds)
					}
					if r.minted() != rounds+1 {
						t.Errorf("credentials minted %d times for %d attempts", r.minted(), rounds+1)
					}
					checkSecrets(t, r)
				})
			})
		}
	}
}

// A broker that knows MQTT 3.1.1 only says so in its own way.
func TestOlderBroker(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		counts := &Counts{}
		r := start(t, srv, func(o *Options) { o.Counts = counts })
		p, _ := srv.next()
		p.connack(0x01, false, nil)
		p.gone()
		synctest.Wait()
		if st := r.State(); !strings.Contains(st.Trouble, "does not speak MQTT v5") || !st.Alarm {
			t.Errorf("state %+v", st)
		}
		if got := maps.Collect(counts.Codes())["CONNACK"]; got[0x84] != 1 {
			t.Errorf("counted %v", got)
		}
	})
}

// What we logged in with has run out: at once with a fresh one, unless that is
// of no use either.
func TestFreshTokenAtOnce(t *testing.T) {
	for _, code := range []byte{0x86, 0x87, 0xA0} {
		t.Run(fmt.Sprintf("0x%02X", code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, func(o *Options) { o.Backoff = distinct })
				p, c := srv.next()
				for range 20 {
					p.connack(0, true, nil)
					time.Sleep(31 * time.Second)
					p.disconnect(code, "")
					p.cut()
					ended, used := time.Now(), string(c.Password)
					p, c = srv.next()
					if d := time.Since(ended); d > 110*time.Millisecond {
						t.Fatalf("came back after %s", d)
					}
					if string(c.Password) == used {
						t.Fatal("with the same token")
					}
				}
				r.stop()
			})
		})
	}
}

// What a PUBACK means for the reading, for every code there could be.
func TestWholePubackTable(t *testing.T) {
	type outcome struct {
		kind      bridge.OutcomeKind
		tries     int
		reconnect bool
	}
	special := map[byte]outcome{
		0x80: {bridge.Retry, triesUnspecified, false}, 0x83: {bridge.Retry, triesUnspecified, false},
		0x87: {bridge.Retry, triesNotAuthorized, true}, 0x91: {bridge.Retry, triesPacketID, true},
		0x96: {bridge.Retry, 0, false}, 0x97: {bridge.Retry, 0, false},
	}
	for code := range 256 {
		want, ok := special[byte(code)]
		if !ok {
			want = outcome{kind: bridge.Refused}
			if code < 0x80 {
				want.kind = bridge.Acked
			}
		}
		o, reconnect := puback(byte(code), "")
		if got := (outcome{o.Kind, o.MaxTries, reconnect}); got != want || o.Code != byte(code) || o.Reason != CodeName(byte(code)) {
			t.Errorf("0x%02X: %+v %q, want %+v", code, got, o.Reason, want)
		}
	}
}

// Whatever SUBACK says, readings go up; it is counted, and a refusal is said
// with what to do, and asked again on the next connection.
func TestSubackCodes(t *testing.T) {
	for _, tt := range []struct {
		code byte
		hint string
	}{
		{0x00, ""}, {0x01, ""}, {0x02, ""},
		{0x80, "unspecified error"}, {0x83, "implementation specific error"}, {0x87, "may not subscribe"},
		{0x8F, "check downlink_topic"}, {0x91, "packet identifier in use"}, {0x97, "limits of the account"},
		{0x9E, "report it"}, {0xA1, "report it"}, {0xA2, "does not allow wildcards"},
	} {
		t.Run(fmt.Sprintf("0x%02X", tt.code), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				counts := &Counts{}
				r := start(t, srv, func(o *Options) { subscribing(o); o.Counts = counts })
				p := srv.accept(false)
				p.subscribed(tt.code)
				r.submit(dev, "1")
				p.puback(p.publish("1").PacketID, 0)
				synctest.Wait()
				r.held(0)
				want := 0
				if tt.code >= 0x80 {
					want = 1
				}
				if n := len(r.log.lines("level=ERROR", "no downlinks", tt.hint)); n != want || len(r.log.lines("level=ERROR")) != want {
					t.Errorf("%d errors, want %d:\n%s", n, want, r.log)
				}
				if got := maps.Collect(counts.Codes())["SUBACK"]; got[tt.code] != 1 || len(got) != 1 {
					t.Errorf("counted %v", got)
				}
				p.cut()
				p = srv.accept(true)
				if want == 1 {
					p.subscribed(1)
				}
				synctest.Wait()
				p.silent()
				if !r.State().Up {
					t.Errorf("state %+v", r.State())
				}
			})
		})
	}
}
