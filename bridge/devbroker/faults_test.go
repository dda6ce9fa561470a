package devbroker_test

import (
	"errors"
	"net"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/golang-jwt/jwt/v5"

	"fieldbridge/bridge/devbroker"
)

func TestDrop(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	w1, _ := connected(t, addr, deviceConnect(t, dev))
	w2, _ := connected(t, addr, deviceConnect(t, rsaDev))
	b.Drop(dev)
	w1.closed()
	w2.ping()
	b.DropAll()
	w2.closed()
	if _, ack := connected(t, addr, deviceConnect(t, rsaDev)); !ack.SessionPresent {
		t.Error("the session is gone")
	}
}

func TestFreeze(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	w, _ := connected(t, addr, deviceConnect(t, dev))
	w.subscribe(downlink + "/#")
	b.Freeze()
	w.publish(1, uplink, "", "frozen")
	down(t, b, 1, 1)
	late := dial(t, addr) // the operating system answers
	late.send(deviceConnect(t, rsaDev))
	w.silent()
	late.silent()
	if n := len(b.Messages()); n != 0 {
		t.Errorf("%d messages came through", n)
	}
	if b.Disconnect(dev, 0x98) {
		t.Error("a frozen broker said something")
	}
	b.Thaw()
	receive[*packets.Connack](late)
	// PUBACK and downlink come from two goroutines, in any order.
	for range 2 {
		switch p := w.read().(type) {
		case *packets.Puback:
		case *packets.Publish:
			if string(p.Payload) != "1" {
				t.Errorf("downlink %q", p.Payload)
			}
		default:
			t.Errorf("%T came", p)
		}
	}
	if got := payloads(b.Messages()); !slices.Equal(got, []string{"frozen"}) {
		t.Errorf("recorded %q", got)
	}
}

func TestDropAndCloseWhileFrozen(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	w, _ := connected(t, addr, deviceConnect(t, dev))
	w2, _ := connected(t, addr, deviceConnect(t, rsaDev))
	b.Freeze()
	w.publish(1, uplink, "", "lost")
	b.Drop(dev)
	w.closed()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
	w2.disconnected(0x8B)
	if n := len(b.Messages()); n != 0 {
		t.Errorf("%d messages came through", n)
	}
}

func TestForgetSessions(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	w, _ := connected(t, addr, deviceConnect(t, dev))
	w.subscribe(downlink + "/#")
	down(t, b, 1, 1)
	w.expect("1", false)
	b.ForgetSessions()
	w.closed()
	w, ack := connected(t, addr, deviceConnect(t, dev))
	if ack.SessionPresent {
		t.Error("the session is still there")
	}
	w.ping()
	w.silent()
	if err := b.Publish(devbroker.Message{Device: dev}); !errors.Is(err, devbroker.ErrNoSubscriber) {
		t.Errorf("Publish = %v", err)
	}
}

func TestRefuseConnects(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	for _, code := range []byte{0x88, 0x89, 0x9F} {
		b.RefuseConnects(code)
		w := dial(t, addr)
		w.send(deviceConnect(t, dev))
		if got := receive[*packets.Connack](w).ReasonCode; got != code {
			t.Errorf("CONNACK with 0x%02X, want 0x%02X", got, code)
		}
		w.closed()
	}
	b.RefuseConnects(0)
	connected(t, addr, deviceConnect(t, dev))
}

func TestRefusePublishes(t *testing.T) {
	b := newBroker(t, nil)
	w, _ := connected(t, listen(t, b), deviceConnect(t, dev))
	b.RefusePublishes(func(m devbroker.Message) byte {
		if m.Subtopic == "bad" {
			return 0x97
		}
		return 0
	})
	w.publish(1, uplink+"/bad", "", "1")
	w.acked(1, 0x97)
	w.publish(2, uplink, "", "2")
	w.acked(2, 0)
	b.RefusePublishes(nil)
	w.publish(3, uplink+"/bad", "", "3")
	w.acked(3, 0)
	if got := payloads(b.Messages()); !slices.Equal(got, []string{"2", "3"}) {
		t.Errorf("recorded %q", got)
	}
}

func TestDisconnect(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	for _, code := range []byte{0x8E, 0x98, 0xA0} {
		w, _ := connected(t, addr, deviceConnect(t, dev))
		if !b.Disconnect(dev, code) {
			t.Error("no connection was found")
		}
		w.disconnected(code)
	}
	if b.Disconnect("nobody", 0x98) {
		t.Error("a connection was found")
	}
}

func TestDisconnectPublishes(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	b.DisconnectPublishes(func(m devbroker.Message) byte {
		if string(m.Payload) == "bad" {
			return 0x95
		}
		return 0
	})
	w, _ := connected(t, addr, deviceConnect(t, dev))
	w.publish(1, uplink, "", "good")
	w.acked(1, 0)
	w.publish(2, uplink, "", "bad")
	w.disconnected(0x95)
	w, ack := connected(t, addr, deviceConnect(t, dev))
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	b.DisconnectPublishes(nil)
	w.publish(2, uplink, "", "bad")
	w.acked(2, 0)
	if got := payloads(b.Messages()); !slices.Equal(got, []string{"good", "bad"}) {
		t.Errorf("recorded %q", got)
	}
}

func TestHoldAcks(t *testing.T) {
	b := newBroker(t, func(o *devbroker.Options) { o.ReceiveMaximum = 21 })
	w, _ := connected(t, listen(t, b), deviceConnect(t, dev))
	b.HoldAcks(true)
	var want []string
	for i := range 20 {
		w.publish(uint16(i+1), uplink, "", strconv.Itoa(i))
		want = append(want, strconv.Itoa(i))
	}
	w.ping() // they are accepted, and nothing but the PUBACKs is missing
	if got := payloads(b.Messages()); !slices.Equal(got, want) {
		t.Errorf("recorded %q", got)
	}
	b.HoldAcks(false)
	w.publish(99, uplink, "", "") // must not be answered before the older ones
	for i := range 20 {
		w.acked(uint16(i+1), 0)
	}
	w.acked(99, 0)

	b.HoldAcks(true)
	for i := range 22 { // one more than allowed
		w.publish(uint16(i+1), uplink, "", "")
	}
	w.disconnected(0x93)
}

func TestTokenExpires(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	other, _ := connected(t, addr, deviceConnect(t, rsaDev))
	c := deviceConnect(t, dev)
	exp := time.Now().Add(3 * time.Second).Truncate(time.Second)
	c.Password = []byte(sign(t, dev, func(m jwt.MapClaims) { m["exp"] = exp.Unix() }))
	w, _ := connected(t, addr, c)
	w.ping()
	w.disconnected(0x87)
	if early := time.Until(exp); early > 0 {
		t.Errorf("cut %v too early", early)
	}
	other.ping()
}

func TestClose(t *testing.T) {
	b := newBroker(t, nil)
	addr := listen(t, b)
	w, _ := connected(t, addr, deviceConnect(t, dev))
	idle := dial(t, addr)
	next := b.Subscribe()
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	w.disconnected(0x8B)
	idle.closed()
	if _, err := net.Dial("tcp", addr); err == nil {
		t.Error("somebody listens")
	}
	if _, err := next.Next(t.Context()); !errors.Is(err, devbroker.ErrClosed) {
		t.Errorf("Next = %v", err)
	}
	if _, err := b.Listen("127.0.0.1:0", nil); !errors.Is(err, devbroker.ErrClosed) {
		t.Errorf("Listen = %v", err)
	}
	if err := b.Publish(devbroker.Message{Device: dev}); !errors.Is(err, devbroker.ErrClosed) {
		t.Errorf("Publish = %v", err)
	}
	server, client := net.Pipe()
	if err := b.ServeConn(server); !errors.Is(err, devbroker.ErrClosed) {
		t.Errorf("ServeConn = %v", err)
	}
	_ = client.Close()
	if err := b.Close(); err != nil {
		t.Error(err)
	}
}

func TestHistory(t *testing.T) {
	b := newBroker(t, func(o *devbroker.Options) { o.History = 3 })
	w, _ := connected(t, listen(t, b), deviceConnect(t, dev))
	all := b.Subscribe()
	for i := range 7 {
		w.publish(uint16(i+1), uplink, "", strconv.Itoa(i))
		w.acked(uint16(i+1), 0)
	}
	if got := payloads(b.Messages()); !slices.Equal(got, []string{"4", "5", "6"}) {
		t.Errorf("recorded %q", got)
	}
	for i := range 7 {
		if m, err := all.Next(t.Context()); err != nil || string(m.Payload) != strconv.Itoa(i) {
			t.Fatalf("message %d is %q, error %v", i, m.Payload, err)
		}
	}
}
