package session

import (
	"bufio"
	"bytes"
	"io"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/eclipse/paho.golang/packets"

	"fieldbridge/bridge"
)

func TestPacketLength(t *testing.T) {
	head := func(length ...byte) []byte { return append([]byte{0x30}, length...) }
	small := append(head(2), 0xff, 0xff)
	largest := append(head(0x80, 0x80, 0x40), make([]byte, maxDownlink)...)
	for name, tt := range map[string]struct {
		in   []byte
		want string
	}{
		"small":                 {bytes.Repeat(small, 3), ""},
		"empty":                 {bytes.Repeat(head(0), 3), ""},
		"largest":               {bytes.Repeat(largest, 2), ""},
		"a byte more":           {append(bytes.Clone(small), head(0x81, 0x80, 0x40)...), "a packet of 1048577 bytes"},
		"largest there is":      {head(0xff, 0xff, 0xff, 0x7f), "a packet of 268435455 bytes"},
		"no length":             {head(0xff, 0xff, 0xff, 0xff), "malformed packet length"},
		"after one of the most": {append(bytes.Clone(largest), head(0xff, 0xff, 0xff, 0x80)...), "malformed packet length"},
	} {
		for _, step := range []int{1, 3, len(tt.in)} {
			c := conn{r: bufio.NewReaderSize(&stepwise{tt.in, step}, readBuffer)}
			var err error
			for err == nil {
				_, err = c.next()
			}
			if err == io.EOF {
				err = nil
			}
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s, %d bytes at a time: error %v, want %q", name, step, err, tt.want)
			}
		}
	}
}

// stepwise brings its bytes a few at a time.
type stepwise struct {
	rest []byte
	step int
}

func (s *stepwise) Read(b []byte) (int, error) {
	if len(s.rest) == 0 {
		return 0, io.EOF
	}
	n := copy(b, s.rest[:min(s.step, len(s.rest))])
	s.rest = s.rest[n:]
	return n, nil
}

func TestHugeDownlink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r, srv, p := subscribed(t, nil)
		_, _ = p.Write([]byte{0x30, 0xff, 0xff, 0xff, 0x7f})
		synctest.Wait()
		if s := r.Trouble(); !strings.Contains(s, "a packet of 268435455 bytes") {
			t.Errorf("trouble %q", s)
		}
		srv.accept(true)
	})
}

// Whatever the broker sends, nothing panics and no memory is taken for what has
// not come.
func FuzzServer(f *testing.F) {
	f.Fuzz(func(t *testing.T, data []byte) {
		r := newRig(t, newServer(t), subscribing)
		w := r.window
		c := r.newConnection(&link{conn: newConn(&recorder{})}, &packets.Properties{})
		w.begin(c.link.conn, &packets.Connack{SessionPresent: true, Properties: &packets.Properties{}})
		w.subscribing()
		c.answers = make(chan packets.Packet, 1)
		r.submit(dev, "1", "2")
		for range 2 {
			s := r.take()
			e := s.Next()
			w.publish(&flight{message: r.message(&e.Reading), source: s, entry: e}, 0, e.Reading.Time)
			r.putBack(s)
		}
		c.link.conn.r = bufio.NewReaderSize(bytes.NewReader(data), readBuffer)
		for {
			p, err := c.link.conn.next()
			if err != nil {
				break
			}
			if last, err := c.handle(p); last != nil || err != nil {
				break
			}
		}
		for _, d := range r.downs {
			if _, err := bridge.ParseDeviceID(string(d.Device)); err != nil {
				t.Error(err)
			}
			d.done()
		}
		w.close()
		if n := w.inFlight(); n != 0 {
			t.Errorf("%d are in flight after the end", n)
		}
	})
}
