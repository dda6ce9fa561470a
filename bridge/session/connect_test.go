package session

import (
	"errors"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

func TestConnectPacket(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Options)
		user   string
		keep   uint16
		expiry uint32
		window uint16
	}{
		{"defaults", nil, "unused", 60, 86400, 32},
		{"all set", func(o *Options) {
			o.KeepAlive, o.SessionExpiry, o.ReceiveMaximum = 15*time.Second, time.Hour, 7
		}, "unused", 15, 3600, 7},
		{"rounded and bounded", func(o *Options) {
			o.KeepAlive, o.SessionExpiry = 1400*time.Millisecond, 200*365*24*time.Hour
		}, "unused", 1, 1<<32 - 1, 32},
		{"too long and too short", func(o *Options) {
			o.KeepAlive, o.SessionExpiry = 100*time.Hour, time.Millisecond
		}, "unused", 1<<16 - 1, 1, 32},
		{"user name empty", func(o *Options) {
			o.Credentials = func() (Credentials, error) { return Credentials{Password: bridge.NewSecret("token-1")}, nil }
		}, "", 60, 86400, 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				r := start(t, srv, tt.change)
				p, c := srv.next()
				if c.ProtocolName != "MQTT" || c.ProtocolVersion != 5 || c.CleanStart || c.WillFlag {
					t.Errorf("%+v: want MQTT, version 5, clean start off, no will", c)
				}
				if c.ClientID != dev || c.KeepAlive != tt.keep {
					t.Errorf("client id %q, keep alive %d; want %q, %d", c.ClientID, c.KeepAlive, dev, tt.keep)
				}
				if !c.UsernameFlag || c.Username != tt.user || !c.PasswordFlag || string(c.Password) != "token-1" {
					t.Errorf("user name %t %q, password %t %q", c.UsernameFlag, c.Username, c.PasswordFlag, c.Password)
				}
				x := c.Properties
				if x.SessionExpiryInterval == nil || *x.SessionExpiryInterval != tt.expiry ||
					x.ReceiveMaximum == nil || *x.ReceiveMaximum != tt.window {
					t.Errorf("properties %v, want expiry %d, Receive Maximum %d", x, tt.expiry, tt.window)
				}
				if x.MaximumPacketSize == nil || *x.MaximumPacketSize != maxDownlink || x.TopicAliasMaximum != nil {
					t.Errorf("properties %v, want a maximum packet size and no aliases", x)
				}
				if st := r.State(); st.Up || st.Trouble == "" {
					t.Errorf("state %+v before CONNACK", st)
				}
				p.connack(0, false, nil)
				synctest.Wait()
				if st := r.State(); !st.Up || st.Trouble != "" {
					t.Errorf("state %+v after CONNACK", st)
				}
				r.stop()
				p.left()
				if st := r.State(); st.Up || st.Trouble == "" {
					t.Errorf("state %+v after Run", st)
				}
			})
		})
	}
}

// checkSecrets looks for secrets, tokens and topics in all that was said.
func checkSecrets(t *testing.T, r *rig) {
	t.Helper()
	text := r.log.String() + r.Trouble()
	for _, q := range r.queues {
		text += fmt.Sprint(q.refusals())
	}
	for _, s := range []string{secret, strings.Trim(fmt.Sprintf("%q", secret), `"`), `of\\\\the`, "token-", "the-yard"} {
		if strings.Contains(text, s) {
			t.Errorf("%q is shown:\n%s", s, text)
		}
	}
}

// Certificate errors tell the time and socket errors the port: that is no news.
func TestLoggedOncePerChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := newRig(t, srv, nil)
		var calls atomic.Int32
		r.opts.Credentials = func() (Credentials, error) {
			if n := calls.Add(1); n < 20 {
				return Credentials{}, fmt.Errorf("read tcp 10.0.0.7:%d: at %s", 40000+n, time.Now().Format(time.RFC3339))
			}
			return Credentials{}, errors.New("no key")
		}
		r.run()
		for calls.Load() < 30 {
			time.Sleep(time.Second)
		}
		if got := len(r.log.lines("level=WARN", "session down")); got != 2 {
			t.Errorf("%d warnings, want 2:\n%s", got, r.log)
		}
		if got := len(r.log.lines("level=DEBUG", "session down")); got < 20 {
			t.Errorf("%d debug lines", got)
		}
	})
}

func TestProbe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := newRig(t, srv, func(o *Options) { o.Secrets = []bridge.Secret{bridge.NewSecret(secret)} })
		probe := func() chan error {
			c := make(chan error, 1)
			go func() { c <- r.Probe(t.Context()) }()
			return c
		}
		c := probe()
		p, _ := srv.next()
		p.connack(0, true, nil)
		if err := <-c; err != nil {
			t.Errorf("accepted: %v", err)
		}
		p.left()

		c = probe()
		p, _ = srv.next()
		p.connack(0x86, false, &packets.Properties{ReasonString: secret})
		if err := <-c; err == nil || !strings.Contains(err.Error(), "CONNACK 0x86") || strings.Contains(err.Error(), "yard") {
			t.Errorf("refused: %v", err)
		}
		srv.setAway(errAway)
		if err := <-probe(); err == nil || !strings.Contains(err.Error(), "connect to broker.example:1883") {
			t.Errorf("away: %v", err)
		}
		srv.setAway(nil)
		c = probe()
		srv.next()
		if err := <-c; err == nil || !strings.Contains(err.Error(), "no answer to CONNECT within 10s") {
			t.Errorf("frozen: %v", err)
		}
		c = probe()
		p, _ = srv.next()
		p.cut()
		if err := <-c; err == nil || !strings.Contains(err.Error(), "without an answer to CONNECT") {
			t.Errorf("closed: %v", err)
		}
	})
}

func TestMaximumQoS0(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		r.submit(dev, "1")
		p, _ := srv.next()
		p.connack(0, false, &packets.Properties{MaximumQOS: ptr(byte(0))})
		p.left()
		synctest.Wait()
		if s := r.Trouble(); !strings.Contains(s, "QoS 0 only") {
			t.Errorf("trouble %q", s)
		}
		srv.accept(false).publish("1")
	})
}
