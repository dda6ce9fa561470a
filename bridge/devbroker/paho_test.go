package devbroker_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/golang-jwt/jwt/v5"

	"fieldbridge/bridge/devbroker"
)

// client is a paho client that passes on what comes.
type client struct {
	*paho.Client
	downlinks    chan *paho.Publish    // capacity: what a test sends at most
	disconnected chan *paho.Disconnect // capacity 1
	failed       chan error            // capacity 1
}

func newClient(conn net.Conn) *client {
	c := &client{
		downlinks:    make(chan *paho.Publish, 16),
		disconnected: make(chan *paho.Disconnect, 1),
		failed:       make(chan error, 1),
	}
	c.Client = paho.NewClient(paho.ClientConfig{
		Conn: conn,
		OnPublishReceived: []func(paho.PublishReceived) (bool, error){func(p paho.PublishReceived) (bool, error) {
			c.downlinks <- p.Packet
			return true, nil
		}},
		OnServerDisconnect: func(d *paho.Disconnect) { c.disconnected <- d },
		OnClientError: func(err error) {
			select {
			case c.failed <- err:
			default:
			}
		},
	})
	return c
}

func pahoConnect(t *testing.T, change func(jwt.MapClaims)) *paho.Connect {
	return &paho.Connect{
		ClientID: dev, KeepAlive: 30, UsernameFlag: true, PasswordFlag: true, Password: []byte(sign(t, dev, change)),
		Properties: &paho.ConnectProperties{SessionExpiryInterval: ptr(uint32(60)), ReceiveMaximum: ptr(uint16(16))},
	}
}

// certificate is for 127.0.0.1.
func certificate(t *testing.T) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(leaf)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: k}, pool
}

func TestPahoOverTLS(t *testing.T) {
	b := newBroker(t, nil)
	plain := listen(t, b)
	cert, roots := certificate(t)
	addr, err := b.Listen("127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{cert}})
	if err != nil {
		t.Fatal(err)
	}
	conn, err := tls.Dial("tcp", addr.String(), &tls.Config{RootCAs: roots})
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(packets.NewThreadSafeConn(conn))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := c.Connect(ctx, pahoConnect(t, nil)); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Subscribe(ctx, &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: downlink + "/#", QoS: 1}}}); err != nil {
		t.Fatal(err)
	}
	ack, err := c.Publish(ctx, &paho.Publish{
		Topic: uplink + "/room", QoS: 1, Payload: []byte("21.5"), Properties: &paho.PublishProperties{ContentType: "text/plain"},
	})
	if err != nil || ack.ReasonCode != 0 {
		t.Fatalf("PUBACK %v, error %v", ack, err)
	}
	if err := b.Publish(devbroker.Message{Device: dev, Subtopic: "valve", Payload: []byte("open")}); err != nil {
		t.Fatal(err)
	}
	select {
	case d := <-c.downlinks:
		if d.Topic != downlink+"/valve" || string(d.Payload) != "open" {
			t.Errorf("downlink %v", d)
		}
	case <-ctx.Done():
		t.Fatal("no downlink")
	}

	// A second listener, and a fault below TLS.
	connected(t, plain, deviceConnect(t, rsaDev))
	b.Drop(dev)
	select {
	case <-c.failed:
	case <-ctx.Done():
		t.Fatal("the cut was not noticed")
	}
	<-c.Done()
}

// serve connects a client over a pipe, inside a bubble.
func serve(t *testing.T, b *devbroker.Broker, wg *sync.WaitGroup, connect *paho.Connect) (*client, *paho.Connack, error) {
	t.Helper()
	server, conn := net.Pipe()
	wg.Go(func() { _ = b.ServeConn(server) })
	c := newClient(packets.NewThreadSafeConn(conn))
	ack, err := c.Connect(t.Context(), connect)
	if err != nil {
		_ = conn.Close()
	}
	return c, ack, err
}

func TestInBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		defer wg.Wait()
		b := newBroker(t, nil)
		defer func() { _ = b.Close() }()

		// An hour with keep-alives, then the token is over to the second.
		start := time.Now()
		c, ack, err := serve(t, b, &wg, pahoConnect(t, nil))
		if err != nil || ack.SessionPresent {
			t.Fatalf("CONNACK %v, error %v", ack, err)
		}
		if _, err := c.Subscribe(t.Context(), &paho.Subscribe{Subscriptions: []paho.SubscribeOptions{{Topic: downlink + "/#", QoS: 1}}}); err != nil {
			t.Fatal(err)
		}
		d := <-c.disconnected
		if d.ReasonCode != 0x87 || time.Since(start) != time.Hour {
			t.Errorf("DISCONNECT with 0x%02X after %v", d.ReasonCode, time.Since(start))
		}
		<-c.Done()
		synctest.Wait()

		// The session lasts for a minute; of two downlinks one has expired.
		if until, ok := b.SessionUntil(dev); !ok || time.Until(until) != time.Minute {
			t.Errorf("session until %v, %t", until, ok)
		}
		for i, expiry := range []time.Duration{10 * time.Second, 0} {
			if err := b.Publish(devbroker.Message{Device: dev, Payload: []byte(strconv.Itoa(i)), MessageExpiry: expiry}); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(59 * time.Second)
		c, ack, err = serve(t, b, &wg, pahoConnect(t, nil))
		if err != nil || !ack.SessionPresent {
			t.Fatalf("CONNACK %v, error %v", ack, err)
		}
		if d := <-c.downlinks; string(d.Payload) != "1" {
			t.Errorf("downlink %q", d.Payload)
		}
		synctest.Wait()
		if n := b.Pending(dev); n != 0 {
			t.Errorf("%d pending", n)
		}

		// A frozen broker answers no keep-alive; a minute later the session is over.
		b.Freeze()
		<-c.failed
		<-c.Done()
		b.Thaw()
		synctest.Wait()
		time.Sleep(61 * time.Second)
		c, ack, err = serve(t, b, &wg, pahoConnect(t, nil))
		if err != nil || ack.SessionPresent {
			t.Fatalf("CONNACK %v, error %v", ack, err)
		}
		if err := b.Publish(devbroker.Message{Device: dev}); !errors.Is(err, devbroker.ErrNoSubscriber) {
			t.Errorf("Publish = %v", err)
		}
		if err := c.Disconnect(&paho.Disconnect{}); err != nil {
			t.Error(err)
		}
		<-c.Done()
	})
}

// A clock that runs elsewhere decides about tokens, real timers about the wait.
func TestOwnClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var wg sync.WaitGroup
		defer wg.Wait()
		b := newBroker(t, func(o *devbroker.Options) {
			o.Now = func() time.Time { return time.Now().Add(-30 * time.Minute) }
		})
		defer func() { _ = b.Close() }()
		if _, _, err := serve(t, b, &wg, pahoConnect(t, nil)); err == nil {
			t.Error("a token of the future was accepted")
		}
		start := time.Now()
		c, _, err := serve(t, b, &wg, pahoConnect(t, func(m jwt.MapClaims) { m["iat"] = start.Add(-time.Hour).Unix() }))
		if err != nil {
			t.Fatal(err)
		}
		<-c.disconnected
		if got := time.Since(start); got != 90*time.Minute {
			t.Errorf("cut after %v", got)
		}
		<-c.Done()
	})
}
