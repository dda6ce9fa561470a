package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// renewIn has each token renewed after d and expire after 2d.
func renewIn(d time.Duration) func(*Options) {
	return func(o *Options) {
		n := 0
		o.Credentials = func() (Credentials, error) {
			n++
			return Credentials{Username: "unused", Password: bridge.NewSecret(fmt.Sprintf("token-%d", n)),
				Renew: time.Now().Add(d), Expires: time.Now().Add(2 * d)}, nil
		}
	}
}

// expiring has the credentials expire some time, and not during a test.
func expiring(o *Options) {
	mint := o.Credentials
	o.Credentials = func() (Credentials, error) {
		c, err := mint()
		c.Expires = time.Now().Add(1000 * time.Hour)
		return c, err
	}
}

// srvDeaf takes connections and nothing else.
func srvDeaf(ctx context.Context, _, _ string) (net.Conn, error) {
	client, conn := net.Pipe()
	context.AfterFunc(ctx, func() {}) // the dialer's context is not the connection's
	deaf.Store(&conn)
	return client, nil
}

var deaf atomic.Pointer[net.Conn] // keeps the other end from being collected

// Readings flow while the credentials are renewed: each arrives once, in order.
func TestRenewal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, renewIn(300*time.Millisecond))
		p, c := srv.next()
		p.connack(0, false, nil)
		stop := make(chan struct{})
		go func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(7 * time.Millisecond):
					r.submit(dev, fmt.Sprint(i))
				}
			}
		}()
		next, tokens := 0, map[string]bool{}
		for range 10 {
			if tokens[string(c.Password)] {
				t.Fatalf("token %s again", c.Password)
			}
			tokens[string(c.Password)] = true
			began := time.Now()
			next = p.serve(next)
			if d := time.Since(began); d < 290*time.Millisecond || d > 320*time.Millisecond {
				t.Errorf("renewed after %s", d)
			}
			if !r.State().Up || r.Trouble() != "" {
				t.Errorf("state %+v", r.State())
			}
			p, c = srv.next()
			p.connack(0, true, nil)
		}
		close(stop)
		if next < 10*300/8 {
			t.Errorf("%d readings only", next)
		}
		if n := len(r.log.lines("level=WARN")); n > 0 {
			t.Errorf("log:\n%s", r.log)
		}
		if n := srv.dialed(); n != 11 {
			t.Errorf("%d connections, want 11", n)
		}
	})
}

// A broker that withholds a PUBACK does not hold up the renewal; the reading is
// repeated on the next connection.
func TestRenewalWithoutPuback(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, renewIn(10*time.Second))
		p := srv.accept(false)
		r.submit(dev, "1")
		p.publish("1")
		time.Sleep(9 * time.Second)
		began := time.Now()
		p.left()
		if d := time.Since(began); d > 4*time.Second {
			t.Errorf("left after %s", d)
		}
		p = srv.accept(true)
		if pub := p.publish("1"); !pub.Duplicate {
			t.Error("repeated without DUP")
		} else {
			p.puback(pub.PacketID, 0)
		}
		synctest.Wait()
		r.held(0)
	})
}

// While renewal fails, the old connection is kept until the broker ends it, even
// beyond its token's expiry; attempts are spaced.
func TestRenewalFails(t *testing.T) {
	for _, tt := range []struct {
		name   string
		expiry time.Duration // 0: never
		token  bool          // minting fails; otherwise dialing does
	}{
		{"token", time.Hour, true},
		{"broker away", time.Hour, false},
		{"token, no expiry", 0, true},
		{"broker away, expired", time.Minute, false},
		{"token, expired", time.Minute, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				var minted atomic.Int32
				var fail atomic.Bool
				r := start(t, srv, func(o *Options) {
					o.Credentials = func() (Credentials, error) {
						if minted.Add(1); fail.Load() && tt.token {
							return Credentials{}, errors.New("no such key")
						}
						c := Credentials{Password: bridge.NewSecret(fmt.Sprintf("token-%d", minted.Load())), Renew: time.Now().Add(30 * time.Second)}
						if tt.expiry > 0 {
							c.Expires = time.Now().Add(tt.expiry)
						}
						return c, nil
					}
				})
				p := srv.accept(false)
				synctest.Wait()
				fail.Store(true)
				if !tt.token {
					srv.setAway(errAway)
				}
				for i := range 20 {
					time.Sleep(time.Minute)
					r.submit(dev, fmt.Sprint(i))
					p.puback(p.publish(fmt.Sprint(i)).PacketID, 0)
				}
				if !r.State().Up {
					t.Errorf("state %+v", r.State())
				}
				if n := minted.Load(); n < 15 || n > 120 {
					t.Errorf("%d attempts in 20 minutes, want about 40", n)
				}
				if n := len(r.log.lines("level=WARN", "not renewed yet")); n == 0 {
					t.Errorf("log:\n%s", r.log)
				}
				p.cut()
				synctest.Wait()
				if s := r.Trouble(); r.State().Up || !strings.Contains(s, "connection lost") {
					t.Errorf("state %+v", r.State())
				}
				fail.Store(false)
				srv.setAway(nil)
				srv.accept(true)
			})
		})
	}
}

// Before a token expires, attempts to renew it come closer together.
func TestRenewalHurries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		var fail atomic.Bool
		r := start(t, srv, func(o *Options) {
			o.Backoff = Backoff{Min: time.Hour, Max: time.Hour}
			o.Credentials = func() (Credentials, error) {
				if fail.Load() {
					return Credentials{}, errors.New("not yet")
				}
				return Credentials{Renew: time.Now().Add(time.Minute), Expires: time.Now().Add(2 * time.Minute)}, nil
			}
		})
		p := srv.accept(false)
		synctest.Wait()
		fail.Store(true)
		time.Sleep(100 * time.Second)
		fail.Store(false)
		p.left()
		srv.accept(true)
		if n := len(r.log.lines("not renewed yet")); n < 2 {
			t.Errorf("%d attempts before:\n%s", n, r.log)
		}
	})
}

// A broker that is gone at the moment of the renewal: the session comes back by
// itself, and nothing is lost.
func TestRenewalMeetsRefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, renewIn(10*time.Second))
		p := srv.accept(false)
		time.Sleep(9 * time.Second)
		p.left()
		p, _ = srv.next()
		p.connack(0x88, false, nil)
		r.submit(dev, "1")
		synctest.Wait()
		if s := r.Trouble(); r.State().Up || !strings.Contains(s, "server unavailable") {
			t.Errorf("state %+v", r.State())
		}
		srv.accept(true).publish("1")
	})
}

// Renew fetches fresh credentials long before these run out; readings go on.
func TestRenew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, renewIn(24*time.Hour))
		p, c := srv.next()
		p.connack(0, false, nil)
		next := 0
		for i := range 5 {
			if want := fmt.Sprintf("token-%d", i+1); string(c.Password) != want || c.CleanStart {
				t.Errorf("CONNECT with %s, clean start %t; want %s in the same session", c.Password, c.CleanStart, want)
			}
			synctest.Wait()
			r.submit(dev, fmt.Sprint(2*i), fmt.Sprint(2*i+1))
			renewed := time.Now()
			r.Renew()
			r.Renew() // it is one renewal
			if next = p.serve(next); next != 2*i+2 {
				t.Errorf("%d readings, want %d", next, 2*i+2)
			}
			if d := time.Since(renewed); d != 0 {
				t.Errorf("took %s", d)
			}
			p, c = srv.next()
			p.connack(0, true, nil)
			time.Sleep(time.Hour)
		}
		if n := srv.dialed(); n != 6 {
			t.Errorf("%d connections, want 6", n)
		}
		if st := r.State(); !st.Up || time.Until(st.TokenExpires) != 47*time.Hour {
			t.Errorf("state %+v", st)
		}
		r.told("down")
		r.held(0)
	})
}

// Credentials that last for ever need no renewal.
func TestRenewWithoutExpiry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		srv := newServer(t)
		r := start(t, srv, nil)
		p := srv.accept(false)
		synctest.Wait()
		r.Renew()
		time.Sleep(time.Hour)
		p.silent()
		if srv.dialed() != 1 || r.minted() != 1 {
			t.Errorf("%d connections, credentials asked for %d times", srv.dialed(), r.minted())
		}
	})
}

// Without a connection Renew ends the pause, with any credentials.
func TestRenewEndsThePause(t *testing.T) {
	for name, change := range map[string]func(*Options){"expiring": renewIn(time.Hour), "for ever": func(*Options) {}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				srv := newServer(t)
				srv.setAway(errAway)
				r := start(t, srv, func(o *Options) {
					change(o)
					// What the pause is, is left to chance: it is not below a minute in practice.
					o.Backoff = Backoff{Min: 10000 * time.Hour, Max: 10000 * time.Hour}
				})
				for i := range 3 {
					synctest.Wait()
					if n := srv.dialed(); n != i+1 {
						t.Fatalf("%d attempts, want %d", n, i+1)
					}
					time.Sleep(time.Minute)
					if i == 2 {
						srv.setAway(nil)
					}
					r.Renew()
				}
				began := time.Now()
				p := srv.accept(false)
				if d := time.Since(began); d != 0 {
					t.Errorf("came after %s", d)
				}
				r.submit(dev, "1")
				p.puback(p.publish("1").PacketID, 0)
				time.Sleep(time.Minute)
				p.silent() // that was all it did
				r.held(0)
			})
		})
	}
}
