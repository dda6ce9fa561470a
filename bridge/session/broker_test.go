package session

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"fmt"
	mrand "math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
)

const connectorSecret = "s3cr3t-of-the-yard"

// against is a rig that talks over TCP to a broker with akenza's rules.
type against struct {
	*rig
	broker *devbroker.Broker
	seen   *devbroker.Subscription
	key    *ecdsa.PrivateKey
}

// newAgainst makes one with device credentials whose tokens last for life.
func newAgainst(t *testing.T, life time.Duration, change func(*Options)) *against {
	t.Helper()
	a := &against{}
	var err error
	if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	a.broker, err = devbroker.New(devbroker.Options{
		Devices:    map[bridge.DeviceID]crypto.PublicKey{dev: a.key.Public()},
		Connectors: map[string]bridge.Secret{"yard": bridge.NewSecret(connectorSecret)},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = a.broker.Close() })
	addr, err := a.broker.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	a.seen = a.broker.Subscribe()
	a.rig = newRig(t, newServer(t), func(o *Options) {
		if o.Endpoint, err = NewEndpoint(EndpointOptions{Address: addr.String()}); err != nil {
			t.Fatal(err)
		}
		o.Backoff = Backoff{Min: time.Millisecond, Max: 20 * time.Millisecond, SlowMin: time.Millisecond, SlowMax: 20 * time.Millisecond}
		o.Credentials = func() (Credentials, error) { return a.token(time.Now(), life) }
		if change != nil {
			change(o)
		}
	})
	return a
}

// bySecret makes it the other kind.
func bySecret(o *Options) {
	o.ClientID = "gateway-1"
	o.Topics = Topics{Uplink: "/up/" + connectorSecret + "/id/{device}", Downlink: "/down/" + connectorSecret + "/id/{device}/#"}
	o.Secrets = []bridge.Secret{bridge.NewSecret(connectorSecret)}
	o.Credentials = func() (Credentials, error) {
		return Credentials{Username: "yard", Password: bridge.NewSecret(connectorSecret)}, nil
	}
}

func (a *against) token(now time.Time, life time.Duration) (Credentials, error) {
	s, err := jwt.NewWithClaims(jwt.SigningMethodES256, jwt.MapClaims{
		"iat": now.Unix(), "exp": now.Add(life).Unix(), "aud": "https://akenza.io/devices/" + dev, "sub": dev,
	}).SignedString(a.key)
	return Credentials{Username: "unused", Password: bridge.NewSecret(s), Renew: now.Add(life / 4), Expires: now.Add(life)}, err
}

// arrived reads readings from the broker until n different ones of each device
// are there, and returns them with repetitions.
func (a *against) arrived(t *testing.T, n int, devices ...bridge.DeviceID) map[bridge.DeviceID][]string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	got, different := map[bridge.DeviceID][]string{}, map[string]bool{}
	for len(different) < n*len(devices) {
		m, err := a.seen.Next(ctx)
		if err != nil {
			t.Fatalf("%d of %d readings have arrived: %v", len(different), n*len(devices), err)
		}
		got[m.Device] = append(got[m.Device], string(m.Payload))
		different[string(m.Device)+string(m.Payload)] = true
	}
	return got
}

func (a *against) until(t *testing.T, what string, cond func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(30 * time.Second); !cond(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("never: %s; trouble: %s", what, a.Trouble())
		}
	}
}

func TestBothKindsOfCredentials(t *testing.T) {
	for name, change := range map[string]func(*Options){"device": func(*Options) {}, "secret": bySecret} {
		t.Run(name, func(t *testing.T) {
			a := newAgainst(t, time.Hour, func(o *Options) {
				change(o)
				o.Subscribe = []bridge.DeviceID{dev}
			})
			a.run()
			want := map[string]string{}
			for i, ct := range bridge.ContentTypes {
				sub := []bridge.Subtopic{"", "alerts", "alerts/critical"}[i%3]
				r := bridge.Reading{Device: dev, Subtopic: sub, ContentType: ct, Payload: []byte(fmt.Sprint(i))}
				if o := <-a.queues[dev].submit(r); o.Kind != bridge.Acked {
					t.Fatalf("%+v", o)
				}
				want[fmt.Sprint(i)] = string(sub) + " " + ct
			}
			for _, m := range a.broker.Messages() {
				format := byte(1)
				if m.ContentType == "application/octet-stream" {
					format = 0
				}
				if got := m.Subtopic + " " + m.ContentType; got != want[string(m.Payload)] || m.QoS != 1 || m.PayloadFormat != format || m.Device != dev {
					t.Errorf("%+v, want %s", m, want[string(m.Payload)])
				}
			}
			connector := ""
			if name == "secret" {
				connector = "yard"
			}
			if err := a.broker.Publish(devbroker.Message{Device: dev, Connector: connector, Subtopic: "valve", ContentType: "text/plain", Payload: []byte("open")}); err != nil {
				t.Fatal(err)
			}
			a.until(t, "a downlink", func() bool { a.mu.Lock(); defer a.mu.Unlock(); return len(a.downs) == 1 })
			d := a.delivered("open")[0]
			if d.Subtopic != "valve" || d.Device != dev || a.broker.Pending(a.opts.ClientID) != 1 {
				t.Errorf("%+v, pending %d", d, a.broker.Pending(a.opts.ClientID))
			}
			d.done()
			a.until(t, "its PUBACK", func() bool { return a.broker.Pending(a.opts.ClientID) == 0 })
			a.stop()
			checkSecrets(t, a.rig)
		})
	}
}

func TestWrongCredentials(t *testing.T) {
	wrong, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	for name, change := range map[string]func(*against, *Options){
		"key": func(a *against, o *Options) {
			o.Credentials = func() (Credentials, error) {
				b := *a
				b.key = wrong
				return b.token(time.Now(), time.Hour)
			}
		},
		"secret": func(_ *against, o *Options) {
			bySecret(o)
			o.Credentials = func() (Credentials, error) {
				return Credentials{Username: "yard", Password: bridge.NewSecret("another")}, nil
			}
		},
		"expired": func(a *against, o *Options) {
			o.Credentials = func() (Credentials, error) { return a.token(time.Now().Add(-time.Hour), time.Minute) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			a := newAgainst(t, time.Hour, nil)
			change(a, &a.opts)
			a.run()
			a.until(t, "a refusal", func() bool { return strings.Contains(a.Trouble(), "CONNACK 0x86") })
			if err := a.Probe(t.Context()); err == nil || !strings.Contains(err.Error(), "public key") {
				t.Errorf("probe: %v", err)
			}
			if s := a.Trouble(); !strings.Contains(s, "public key") {
				t.Errorf("trouble %q", s)
			}
			a.submit(dev, "1")
			a.stop()
			a.held(1)
			if n := len(a.broker.Messages()); n > 0 {
				t.Errorf("%d readings have arrived", n)
			}
		})
	}
}

// Tokens that live for two seconds, readings all the while: each arrives exactly
// once, in order, in one session.
func TestRenewalAtBroker(t *testing.T) {
	a := newAgainst(t, 2*time.Second, nil)
	a.run()
	const n = 1200
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for i := range n {
		a.submit(dev, fmt.Sprint(i))
		<-tick.C
	}
	got := a.arrived(t, n, dev)[dev]
	if !slices.Equal(got, numbered(n)) {
		t.Errorf("%d readings arrived, want %d, each once and in order", len(got), n)
	}
	cs := a.broker.Connects()
	if len(cs) < 4 {
		t.Errorf("%d connections only", len(cs))
	}
	for i, c := range cs {
		if c.Code != 0 || c.SessionPresent != (i > 0) || c.CleanStart || !c.UsernamePresent {
			t.Errorf("CONNECT %d: %+v", i, c)
		}
	}
	if l := a.log.lines("session down"); len(l) > 0 {
		t.Errorf("log: %s", l)
	}
}

// Whatever the broker does, what was taken arrives, and the first arrivals of
// each device are in order.
func TestChaos(t *testing.T) {
	a := newAgainst(t, time.Hour, func(o *Options) {
		bySecret(o)
		o.ReceiveMaximum = 8
		o.PubackTimeout = 200 * time.Millisecond
		o.ConnectTimeout = 200 * time.Millisecond
	})
	a.run()
	const n = 400
	devices := []bridge.DeviceID{dev, "dev-2", "dev-3"}
	var wg sync.WaitGroup
	for _, id := range devices {
		wg.Go(func() {
			tick := time.NewTicker(2 * time.Millisecond)
			defer tick.Stop()
			for i := range n {
				a.submit(id, fmt.Sprint(i))
				<-tick.C
			}
		})
	}
	stop := make(chan struct{})
	var faults sync.WaitGroup
	faults.Go(func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-stop:
				return
			case <-tick.C:
			}
			switch mrand.IntN(6) {
			case 0:
				a.broker.DropAll()
			case 1:
				a.broker.ForgetSessions()
			case 2:
				a.broker.Disconnect("gateway-1", []byte{0x8B, 0x87, 0x98}[mrand.IntN(3)])
			case 3:
				a.broker.HoldAcks(true)
			case 4:
				a.broker.Freeze()
			default:
				a.broker.HoldAcks(false)
				a.broker.Thaw()
			}
		}
	})
	wg.Wait()
	close(stop)
	faults.Wait()
	a.broker.HoldAcks(false)
	a.broker.Thaw()
	for id, got := range a.arrived(t, n, devices...) {
		first, seen := []string(nil), map[string]bool{}
		for _, p := range got {
			if !seen[p] {
				first = append(first, p)
			}
			seen[p] = true
		}
		if !slices.Equal(first, numbered(n)) {
			t.Errorf("%s: out of order: %v", id, first)
		}
	}
	a.until(t, "the PUBACKs", func() bool { return a.holds() == 0 })
	checkSecrets(t, a.rig)
}
