//go:build linux

package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	mrand "math/rand/v2"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/golang-jwt/jwt/v5"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
	"fieldbridge/bridge/devbroker"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/token"
)

var dayDevices = flag.Int("day.devices", 0, "TestDay with so many devices, for 24 hours")

// A day in the life of a gateway, simulated: the clock is not set at the start
// and steps twice, links drop, the broker restarts and forgets its sessions, is
// away, and hangs; one device has the wrong key.
func TestDay(t *testing.T) {
	devices, length := 100, 24*time.Hour
	switch {
	case *dayDevices > badDevice:
		devices = *dayDevices
	case testing.Short() || raceDetector:
		devices, length = 40, 12*time.Hour
	}
	synctest.Test(t, func(t *testing.T) {
		d := newDay(t, devices)
		d.live(length)
	})
}

const (
	dayLife      = time.Hour
	dayPeriod    = 10 * time.Minute // between two readings of a device
	dayRate      = 20               // connects per second
	dayKeepAlive = 5 * time.Minute
	// badDevice has another key at the broker.
	badDevice = 7
)

type day struct {
	t        *testing.T
	devices  int
	broker   *devbroker.Broker
	spool    *bridgetest.Spool
	bridge   *bridge.Bridge
	sessions []*session.Session
	goodKey  crypto.PublicKey // of badDevice, once somebody puts that right
	dials    dials
	ledger   *ledger
	traffic  *traffic
	attempts atomic.Int64 // of badDevice
	downs    sync.Map     // by device: has had a downlink

	unset  atomic.Bool  // the gateway's clock has not been set yet
	offset atomic.Int64 // the gateway's clock less the true time, ns
	away   atomic.Bool  // no way to the broker
	hang   hang         // a way that nothing comes through

	serving sync.WaitGroup // goroutines of the network
}

func newDay(t *testing.T, devices int) *day {
	t.Helper()
	d := &day{t: t, devices: devices, spool: &bridgetest.Spool{}, ledger: newLedger()}
	keys := map[bridge.DeviceID]crypto.PublicKey{}
	signers := make([]*token.Signer, devices)
	for i := range devices {
		id := bridge.DeviceID(deviceID(i))
		key := newKey(t)
		keys[id] = key.Public()
		if i == badDevice {
			d.goodKey, keys[id] = key.Public(), newKey(t).Public()
		}
		var err error
		signers[i], err = token.NewSigner(key, token.Options{
			Device: id, Audience: strings.ReplaceAll(devbroker.DefaultAudience, "{device}", string(id)),
			Lifetime: dayLife, Now: func() time.Time { return time.Now().Add(d.wrong()) },
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	var err error
	if d.broker, err = devbroker.New(devbroker.Options{Devices: keys, History: 1_000_000}); err != nil {
		t.Fatal(err)
	}
	d.bridge = bridge.New(bridge.Options{Spool: d.spool})
	d.traffic = newTraffic(d.bridge, devices, dayPeriod)
	pacer := session.NewPacer(dayRate)
	endpoint, err := session.NewEndpoint(session.EndpointOptions{Address: "broker.example:1883", Dial: d.dial})
	if err != nil {
		t.Fatal(err)
	}
	for i, signer := range signers {
		d.connect(i, signer, session.Options{Endpoint: endpoint, Pacer: pacer})
	}
	return d
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (d *day) wrong() time.Duration { return time.Duration(d.offset.Load()) }

func (d *day) connect(i int, signer *token.Signer, o session.Options) {
	d.t.Helper()
	id := bridge.DeviceID(deviceID(i))
	o.ClientID, o.KeepAlive = string(id), dayKeepAlive
	o.Topics = session.Topics{Uplink: uplinkTopic, Downlink: downlinkTopic}
	o.Subscribe = []bridge.DeviceID{id}
	o.Downlinks = func(dl bridge.Downlink, _ bridge.Origin, done func()) {
		d.downs.Store(dl.Device, true)
		done()
	}
	o.Down = func(s *session.Session) { d.bridge.LinkDown(s) }
	o.Credentials = func() (session.Credentials, error) {
		if d.unset.Load() {
			return session.Credentials{}, errors.New("the clock is not trusted")
		}
		t, err := signer.Mint()
		if err != nil {
			return session.Credentials{}, err
		}
		// A session counts from its clock to these. Time cannot step in here, so
		// they are what makes the same differences.
		return session.Credentials{
			Username: "unused", Password: t.Value,
			Renew:   token.RenewAt(t, mrand.Float64).Add(-d.wrong()),
			Expires: t.Expires.Add(-d.wrong()),
		}, nil
	}
	s, err := session.New(o)
	if err != nil {
		d.t.Fatal(err)
	}
	d.sessions = append(d.sessions, s)
	if err := d.bridge.Connect(id, bridge.Connection{Uplink: s}); err != nil {
		d.t.Fatal(err)
	}
}

// dial is the network: a link to the broker.
func (d *day) dial(context.Context, string, string) (net.Conn, error) {
	d.dials.note(time.Now())
	if d.away.Load() {
		return nil, errors.New("no route to host")
	}
	client, near := net.Pipe()
	far, server := net.Pipe()
	d.serving.Go(func() { _ = d.broker.ServeConn(server) }) // ends as the broker likes
	up := &flow{from: near, to: far, hang: &d.hang, inspect: d.inspect}
	down := &flow{from: far, to: near, hang: &d.hang}
	for _, f := range []*flow{up, down} {
		f.more = make(chan struct{}, 1)
		d.serving.Go(f.read)
		d.serving.Go(f.write)
	}
	return client, nil
}

// inspect checks that a CONNECT carries a token of its device that is valid now,
// by the true time.
func (d *day) inspect(p []byte) {
	cp, err := packets.ReadPacket(bytes.NewReader(p))
	if err != nil {
		d.t.Errorf("the first write is no packet: %v", err)
		return
	}
	c, ok := cp.Content.(*packets.Connect)
	if !ok {
		d.t.Errorf("the first packet is %T", cp.Content)
		return
	}
	if c.ClientID == deviceID(badDevice) {
		d.attempts.Add(1)
	}
	claims := jwt.RegisteredClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(string(c.Password), &claims); err != nil {
		d.t.Errorf("%s: the password is no token: %v", c.ClientID, err)
		return
	}
	if claims.ExpiresAt == nil || !claims.ExpiresAt.After(time.Now()) {
		d.t.Errorf("%s: a token on the wire at %s that expired at %v", c.ClientID, time.Now(), claims.ExpiresAt)
	}
	if claims.Subject != c.ClientID {
		d.t.Errorf("%s: a token of %s", c.ClientID, claims.Subject)
	}
}

// live lets the day pass and checks it.
func (d *day) live(length time.Duration) {
	t := d.t
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	began := time.Now()
	seen := d.broker.Subscribe()
	d.serving.Go(func() {
		for {
			m, err := seen.Next(context.Background())
			if err != nil {
				return // closed
			}
			d.ledger.see(string(m.Device), m.Payload, m.Received)
		}
	})
	d.unset.Store(true)
	var running sync.WaitGroup
	for _, s := range d.sessions {
		running.Go(func() { _ = s.Run(ctx) })
	}
	running.Go(func() { d.traffic.run(ctx, length) })
	running.Go(func() { d.drops(ctx, length*7/8) })
	d.faults(length)
	time.Sleep(length - time.Since(began) + time.Minute)

	d.calm(began, length)
	d.repair()
	if b := d.ledger.balance(d.traffic.accepted()); b.err() != nil || d.traffic.refused > 0 {
		t.Errorf("%+v, %d refused: %v", b, d.traffic.refused, b.err())
	} else {
		t.Logf("%d devices, %s: %d connects, %+v", d.devices, length, len(d.dials.times()), b)
	}
	if dead, misuse := d.spool.Dead(), d.spool.Misuse(); len(dead)+len(misuse) > 0 {
		t.Errorf("%d dead letters; %s", len(dead), misuse)
	}
	d.budget()
	cancel()
	running.Wait()
	if err := d.broker.Close(); err != nil {
		t.Error(err)
	}
	d.serving.Wait()
}

// drops cuts some connections every few minutes.
func (d *day) drops(ctx context.Context, length time.Duration) {
	for end := time.Now().Add(length); time.Now().Before(end) && ctx.Err() == nil; {
		time.Sleep(mrand.N(10 * time.Minute))
		for range 1 + d.devices/100 {
			d.broker.Drop(deviceID(mrand.IntN(d.devices)))
		}
	}
}

// faults are the events of the day, over by seven eighths of it.
func (d *day) faults(length time.Duration) {
	began := time.Now()
	at := func(eighths float64) {
		time.Sleep(time.Until(began.Add(time.Duration(float64(length) / 8 * eighths))))
	}
	time.Sleep(10 * time.Minute)
	d.unset.Store(false)
	d.step(0)
	at(1)
	d.broker.DropAll()
	at(2)
	d.restart()
	at(3)
	d.away.Store(true)
	d.broker.DropAll()
	time.Sleep(10 * time.Minute)
	d.away.Store(false)
	at(4)
	d.step(-5 * time.Minute)
	at(5)
	d.restart()
	at(5.5)
	d.step(10 * time.Minute) // tokens are of the future now, and the broker refuses them
	time.Sleep(15 * time.Minute)
	d.step(0)
	at(6)
	d.hang.set(true)
	time.Sleep(dayKeepAlive * 2)
	d.hang.set(false)
	at(6.5)
	d.restart()
	at(7)
}

// restart is one of a broker that keeps no sessions and was not well before.
func (d *day) restart() {
	d.broker.HoldAcks(true)
	time.Sleep(5 * time.Minute)
	d.broker.ForgetSessions()
	d.broker.HoldAcks(false)
}

// step sets the gateway's clock, with what the daemon does about it.
func (d *day) step(offset time.Duration) {
	d.offset.Store(int64(offset))
	for _, s := range d.sessions {
		s.Renew()
	}
}

// calm checks the end of the day, when nothing has gone wrong for a while: the
// device with the bad key has troubled the broker little, and nobody else at all.
func (d *day) calm(began time.Time, length time.Duration) {
	d.t.Helper()
	bad := bridge.DeviceID(deviceID(badDevice))
	backlogs, err := d.spool.Backlogs()
	if err != nil || len(backlogs) != 1 || backlogs[0].Device != bad || backlogs[0].Readings != int64(d.traffic.sent[badDevice]) {
		d.t.Errorf("stored %+v (%v), want the %d readings of %s", backlogs, err, d.traffic.sent[badDevice], bad)
	}
	for i, s := range d.sessions {
		if st := s.State(); st.Up == (i == badDevice) {
			d.t.Errorf("%s: %+v", deviceID(i), st)
		}
	}
	n := 0
	for _, s := range d.ledger.samples {
		if s.sent.Before(began.Add(length * 15 / 16)) {
			continue
		}
		if n++; s.took > time.Second {
			d.t.Errorf("%s: the reading of %s took %s", s.device, s.sent, s.took)
		}
	}
	if n == 0 {
		d.t.Error("no readings at the end of the day")
	}
	// Slow attempts are 15 s to 5 min apart at the most, half of that on average.
	if n, most := d.attempts.Load(), int64(length/time.Minute); n == 0 || n > most {
		d.t.Errorf("%d attempts with the bad key, at most %d are decent", n, most)
	}
	for _, c := range d.broker.Connects() {
		if strings.Contains(c.Refused, "expired") {
			d.t.Errorf("%s at %s: %s", c.ClientID, c.At, c.Refused)
		}
	}
}

// repair gives the broker the right key. All that has waited goes out, and each
// device hears a downlink.
func (d *day) repair() {
	d.t.Helper()
	if err := d.broker.SetDevice(bridge.DeviceID(deviceID(badDevice)), d.goodKey); err != nil {
		d.t.Error(err)
	}
	time.Sleep(15 * time.Minute)
	for i := range d.devices {
		id := bridge.DeviceID(deviceID(i))
		if err := d.broker.Publish(devbroker.Message{Device: id, Subtopic: "check", ContentType: "text/plain", Payload: []byte("x")}); err != nil {
			d.t.Error(err)
		}
	}
	time.Sleep(time.Minute)
	for i := range d.devices {
		if _, ok := d.downs.Load(bridge.DeviceID(deviceID(i))); !ok {
			d.t.Errorf("%s has not had its downlink", deviceID(i))
		}
	}
	if held := d.bridge.Held(); held > 0 {
		d.t.Error(fmt.Sprint(held, " readings are held"))
	}
}

// budget checks that there was no second with more connects than allowed.
func (d *day) budget() {
	d.t.Helper()
	if most := peak(d.dials.times(), time.Second); most > dayRate {
		d.t.Errorf("%d connects in one second, the budget is %d", most, dayRate)
	}
}
