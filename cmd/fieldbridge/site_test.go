package main

import (
	"crypto"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
	"fieldbridge/bridge/token"
)

const (
	yardID     = "yard-id"
	yardSecret = "s3cr3t-of-the-yard"
)

// site is a broker with akenza's rules, and what is needed to connect to it: the
// devices pump-1 and pump-2 have keys of their own (ES256 and RS256), any other
// comes by the connector yard-id.
type site struct {
	Broker *devbroker.Broker
	// Addr is the broker's host:port.
	Addr string
	// Files are keys and secrets, for startGateway.
	Files map[string]string

	t    *testing.T
	wait sync.WaitGroup
}

// rsaKey is made once: it takes long under the race detector.
var rsaKey = sync.OnceValues(func() (crypto.Signer, error) { return token.Generate("RS256") })

// newSite starts a broker, with options as set has changed them.
func newSite(t *testing.T, set ...func(*devbroker.Options)) *site {
	t.Helper()
	s := newDarkSite(t, set...)
	addr, err := s.Broker.Listen("127.0.0.1:0", nil)
	if err != nil {
		t.Fatal(err)
	}
	s.Addr = addr.String()
	return s
}

// newDarkSite makes a broker that nobody can reach yet.
func newDarkSite(t *testing.T, set ...func(*devbroker.Options)) *site {
	t.Helper()
	s := &site{t: t, Files: map[string]string{"yard.secret": yardSecret + "\n"}}
	o := devbroker.Options{
		Devices:    map[bridge.DeviceID]crypto.PublicKey{},
		Connectors: map[string]bridge.Secret{yardID: bridge.NewSecret(yardSecret)},
	}
	for id, generate := range map[bridge.DeviceID]func() (crypto.Signer, error){
		"pump-1": func() (crypto.Signer, error) { return token.Generate("ES256") },
		"pump-2": rsaKey,
	} {
		key, err := generate()
		if err != nil {
			t.Fatal(err)
		}
		private, err := token.EncodePrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		o.Devices[id] = key.Public()
		s.Files[string(id)+".pem"] = string(private)
	}
	for _, f := range set {
		f(&o)
	}
	var err error
	if s.Broker, err = devbroker.New(o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Broker.Close(); err != nil {
			t.Error(err)
		}
		s.wait.Wait()
	})
	return s
}

// serve lets the broker take the listener's connections, each as tap returns it.
func (s *site) serve(l net.Listener, tap func(net.Conn) net.Conn) {
	s.t.Cleanup(func() { _ = l.Close() })
	s.wait.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			s.wait.Go(func() { _ = s.Broker.ServeConn(tap(c)) })
		}
	})
}

// config is the connectors plant (a JWT for each device) and yard (the secret),
// with more keys, if any, for each, and then the rest of a configuration.
func (s *site) config(plant, yard, rest string) string {
	return fmt.Sprintf(`
[[connector]]
name = "plant"
broker = "mqtt://%[1]s"
auth = "device-credentials"
key_file = "{device}.pem"
%[2]s

[[connector]]
name = "yard"
broker = "mqtt://%[1]s"
auth = "uplink-secret"
id = "yard-id"
secret_file = "yard.secret"
%[3]s
`, s.Addr, plant, yard) + rest
}

// messages are the readings that the broker has of a device.
func (s *site) messages(device string) []devbroker.Message {
	var out []devbroker.Message
	for _, m := range s.Broker.Messages() {
		if string(m.Device) == device {
			out = append(out, m)
		}
	}
	return out
}

// await waits until the broker has count different readings of a device that
// newNumbered has numbered.
func (s *site) await(device string, count int) {
	s.t.Helper()
	eventually(s.t, fmt.Sprintf("%d readings of %s at the broker", count, device), func() bool {
		return arrived(device, payloadsOf(s.messages(device))) >= count
	})
}

// awaitPayload waits until the broker has a reading with this payload.
func (s *site) awaitPayload(payload string) {
	s.t.Helper()
	eventually(s.t, payload+" at the broker", func() bool {
		return slices.Contains(payloadsOf(s.Broker.Messages()), payload)
	})
}

// down sends a downlink, to a session that is or will be subscribed.
func (s *site) down(m devbroker.Message) {
	s.t.Helper()
	eventually(s.t, "a subscription for "+string(m.Device), func() bool { return s.Broker.Publish(m) == nil })
}

// connectsOf are the answered CONNECTs of a client.
func (s *site) connectsOf(client string) []devbroker.Connect {
	var out []devbroker.Connect
	for _, c := range s.Broker.Connects() {
		if c.ClientID == client {
			out = append(out, c)
		}
	}
	return out
}

// yardClient is the client id of the yard's session.
func (s *site) yardClient() string {
	s.t.Helper()
	for _, c := range s.Broker.Connects() {
		if c.Username == yardID {
			return c.ClientID
		}
	}
	s.t.Fatal("the yard's session has never connected")
	return ""
}

// reservedAddr takes a port on which nobody listens until listen is called: up
// to then, connections are refused.
func reservedAddr(t *testing.T) (addr string, listen func() net.Listener) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "reserved port")
	t.Cleanup(func() { _ = f.Close() })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("127.0.0.1:%d", name.(*unix.SockaddrInet4).Port), func() net.Listener {
		t.Helper()
		if err := unix.Listen(fd, 128); err != nil {
			t.Fatal(err)
		}
		l, err := net.FileListener(f)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
}

// hookCall is one call of a webhook.
type hookCall struct {
	Path, ContentType, Device, Subtopic, Body string
}

// webhookServer is an app that takes downlinks.
type webhookServer struct {
	URL   string
	Calls chan hookCall
	// Gate, if set, is asked for the status of each call. It may block.
	Gate func(hookCall) int

	t *testing.T
}

func newWebhook(t *testing.T, gate func(hookCall) int) *webhookServer {
	t.Helper()
	w := &webhookServer{t: t, Calls: make(chan hookCall, 1024), Gate: gate}
	srv := httptest.NewServer(http.HandlerFunc(w.serve))
	t.Cleanup(srv.Close)
	w.URL = srv.URL
	return w
}

func (w *webhookServer) serve(rw http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		w.t.Errorf("the webhook's request breaks off: %v", err)
	}
	call := hookCall{
		Path: r.URL.Path, ContentType: r.Header.Get("Content-Type"),
		Device: r.Header.Get("fieldbridge-device"), Subtopic: r.Header.Get("fieldbridge-subtopic"),
		Body: string(body),
	}
	status := http.StatusNoContent
	if w.Gate != nil {
		status = w.Gate(call)
	}
	w.Calls <- call
	rw.WriteHeader(status)
}

// next waits for the next call.
func (w *webhookServer) next() hookCall {
	w.t.Helper()
	select {
	case c := <-w.Calls:
		return c
	case <-time.After(patience):
		w.t.Fatal("the webhook was not called")
		return hookCall{}
	}
}

// want waits for the next call, which must be this.
func (w *webhookServer) want(call hookCall) {
	w.t.Helper()
	if got := w.next(); got != call {
		w.t.Fatalf("the webhook got %+v, want %+v", got, call)
	}
}
