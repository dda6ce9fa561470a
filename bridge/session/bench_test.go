package session

import (
	"bufio"
	"context"
	"encoding/binary"
	"io"
	"net"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/eclipse/paho.golang/packets"
	"github.com/eclipse/paho.golang/paho"
	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// ackerEnv has this test binary be a broker that accepts and acknowledges.
const ackerEnv = "SESSION_TEST_ACKER"

// TestAcker is not a test: BenchmarkPublish runs it in a process of its own, so
// that the broker's CPU time does not count as the client's.
func TestAcker(t *testing.T) {
	if os.Getenv(ackerEnv) == "" {
		t.Skip("BenchmarkPublish runs it")
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(os.Stderr, l.Addr().String()+"\n")
	go func() { // ends with the process that started it
		_, _ = io.Copy(io.Discard, os.Stdin)
		_ = l.Close()
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go acknowledge(c)
	}
}

func acknowledge(c net.Conn) {
	defer c.Close()
	r, w := &conn{r: bufio.NewReaderSize(c, 64<<10)}, bufio.NewWriterSize(c, 64<<10)
	for {
		p, err := r.next()
		if err != nil {
			return
		}
		switch p.kind {
		case packets.CONNECT:
			_, _ = (&packets.Connack{Properties: &packets.Properties{}}).WriteTo(w)
		case packets.PUBLISH:
			topic := 2 + binary.BigEndian.Uint16(p.body)
			_, _ = w.Write([]byte{packets.PUBACK << 4, 2, p.body[topic], p.body[topic+1]})
		case packets.PINGREQ:
			_, _ = w.Write([]byte{packets.PINGRESP << 4, 0})
		}
		if r.r.Buffered() == 0 && w.Flush() != nil {
			return
		}
	}
}

func acker(b *testing.B) (addr string) {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestAcker$")
	cmd.Env = append(os.Environ(), ackerEnv+"=1")
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := cmd.StderrPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { _ = in.Close(); _ = cmd.Wait() })
	if addr, err = bufio.NewReader(out).ReadString('\n'); err != nil {
		b.Fatal(err)
	}
	return addr[:len(addr)-1]
}

// cpuTime is what this process has used.
func cpuTime() time.Duration {
	var u syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

const benchWindow = 512 // what is in flight, in each of the three

// BenchmarkPublish compares one session with what paho and a writer made for this
// alone need for the same publishes: CPU seconds per 100,000, of this process.
func BenchmarkPublish(b *testing.B) {
	addr := acker(b)
	payload := []byte(`{"temperature":21.5,"humidity":40,"battery":3.61,"count":1234}`)
	for _, way := range []struct {
		name string
		run  func(*testing.B, string, []byte)
	}{{"session", bySession}, {"session-aliases", bySessionAliases}, {"paho-512-goroutines", byPaho}, {"floor", byHand}} {
		b.Run(way.name, func(b *testing.B) {
			b.ReportAllocs()
			began := cpuTime()
			way.run(b, addr, payload)
			b.ReportMetric((cpuTime()-began).Seconds()/float64(b.N)*100_000, "cpu-s/100k")
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "publishes/s")
		})
	}
}

// supply has n readings to send.
type supply struct {
	entry *bridge.Entry
	rest  int // owned by the session's goroutine
	open  atomic.Int64
	done  chan struct{}
}

func (s *supply) Next() *bridge.Entry {
	if s.rest == 0 {
		return nil
	}
	s.rest--
	return s.entry
}

func (s *supply) Resolve(*bridge.Entry, bridge.Outcome) {
	if s.open.Add(-1) == 0 {
		close(s.done)
	}
}

func bySession(b *testing.B, addr string, payload []byte)        { sessionWith(b, addr, payload, false) }
func bySessionAliases(b *testing.B, addr string, payload []byte) { sessionWith(b, addr, payload, true) }

func sessionWith(b *testing.B, addr string, payload []byte, aliases bool) {
	ep, err := NewEndpoint(EndpointOptions{Address: addr})
	if err != nil {
		b.Fatal(err)
	}
	s, err := New(Options{
		Endpoint: ep, ClientID: "bench", ReceiveMaximum: benchWindow, TopicAlias: aliases,
		Credentials: func() (Credentials, error) { return Credentials{}, nil },
		Topics:      Topics{Uplink: "/up/device/id/{device}"},
	})
	if err != nil {
		b.Fatal(err)
	}
	src := &supply{rest: b.N, done: make(chan struct{}), entry: &bridge.Entry{Reading: bridge.Reading{
		ID: uuid.Must(uuid.NewV7()), Device: dev, ContentType: "application/json", Payload: payload, Time: time.Now()}}}
	src.open.Store(int64(b.N))
	ctx, cancel := context.WithCancel(b.Context())
	var wg sync.WaitGroup
	wg.Go(func() { _ = s.Run(ctx) })
	s.Offer(src)
	<-src.done
	cancel()
	wg.Wait()
}

func byPaho(b *testing.B, addr string, payload []byte) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	client := paho.NewClient(paho.ClientConfig{Conn: packets.NewThreadSafeConn(c)})
	receive := uint16(benchWindow)
	if _, err := client.Connect(b.Context(), &paho.Connect{ClientID: "bench", KeepAlive: 60,
		Properties: &paho.ConnectProperties{ReceiveMaximum: &receive}}); err != nil {
		b.Fatal(err)
	}
	var rest atomic.Int64
	rest.Store(int64(b.N))
	var wg sync.WaitGroup
	for range benchWindow {
		wg.Go(func() {
			for rest.Add(-1) >= 0 {
				if _, err := client.Publish(b.Context(), &paho.Publish{Topic: upTo, QoS: 1, Payload: payload,
					Properties: &paho.PublishProperties{ContentType: "application/json"}}); err != nil {
					b.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	_ = client.Disconnect(&paho.Disconnect{})
}

// byHand is the floor: one packet made beforehand, its id changed, written many
// at a time; PUBACKs are counted.
func byHand(b *testing.B, addr string, payload []byte) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		b.Fatal(err)
	}
	defer c.Close()
	w := newConn(c)
	_, _ = (&packets.Connect{ProtocolName: "MQTT", ProtocolVersion: 5, ClientID: "bench", Properties: &packets.Properties{}}).WriteTo(w)
	if _, err := w.next(); err != nil {
		b.Fatal(err)
	}
	one := appendPublish(nil, &message{topic: upTo, contentType: "application/json", text: true, payload: payload}, 0, false, 0, false)
	at := 2 + 2 + len(upTo) // after a fixed header of two bytes
	for sent, acked := 0, 0; acked < b.N; {
		w.cork()
		for sent < b.N && sent-acked < benchWindow {
			sent++
			binary.BigEndian.PutUint16(one[at:], uint16(sent%60_000+1))
			w.packet(one...)
		}
		w.uncork()
		for first := true; acked < sent && (first || w.r.Buffered() > 0); first = false {
			if _, err := w.next(); err != nil {
				b.Fatal(err)
			}
			acked++
		}
	}
}
