package modbus

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// wire is a Line over anything that carries bytes.
type wire struct {
	rw   io.ReadWriteCloser
	in   chan []byte // what came; closed when the reader has ended
	turn chan struct{}
}

func newWire(t testing.TB, rw io.ReadWriteCloser) *wire {
	w := &wire{rw: rw, in: make(chan []byte, 4096), turn: make(chan struct{}, 1)}
	go func() {
		defer close(w.in)
		for {
			b := make([]byte, 512)
			n, err := rw.Read(b)
			if n > 0 {
				w.in <- b[:n]
			}
			if err != nil {
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = rw.Close()
		for range w.in { // until the reader has ended
		}
	})
	return w
}

var errWireGone = errors.New("the wire is gone")

// Exchange implements Line.
func (w *wire) Exchange(ctx context.Context, x Exchange) ([]byte, error) {
	select {
	case w.turn <- struct{}{}:
		defer func() { <-w.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	limit := time.Now().Add(x.Silence + time.Second)
	for silent := false; !silent; {
		if time.Now().After(limit) {
			return nil, ErrBusy
		}
		_, err := w.next(ctx, x.Silence)
		if err != nil && !errors.Is(err, ErrTimeout) {
			return nil, err
		}
		silent = err != nil
	}
	if _, err := w.rw.Write(x.Request); err != nil {
		return nil, err
	}
	if x.Done == nil {
		_, err := w.next(ctx, x.Timeout)
		if errors.Is(err, ErrTimeout) {
			err = nil
		}
		return nil, err
	}
	var got []byte
	end := time.Now().Add(x.Timeout)
	for {
		b, err := w.next(ctx, time.Until(end))
		got = append(got, b...)
		if err != nil || x.Done(got) {
			return got, err
		}
	}
}

func (w *wire) next(ctx context.Context, d time.Duration) ([]byte, error) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case b, ok := <-w.in:
		if !ok {
			return nil, errWireGone
		}
		return b, nil
	case <-timer.C:
		return nil, ErrTimeout
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// crc16 is the CRC bit by bit (MSL section 6.2.2), not by the code under test.
func crc16(b []byte) uint16 {
	crc := uint16(0xFFFF)
	for _, v := range b {
		crc ^= uint16(v)
		for range 8 {
			if crc&1 == 1 {
				crc = crc>>1 ^ 0xA001
			} else {
				crc >>= 1
			}
		}
	}
	return crc
}

func sealed(b ...byte) []byte {
	crc := crc16(b)
	return append(append([]byte{}, b...), byte(crc), byte(crc>>8))
}

// fault puts an answer on the wire its own way.
type fault func(s *sim, answer []byte)

// simSlave is one slave: what it has at which address. Others are exceptions.
type simSlave struct {
	coils, inputs  map[uint16]bool
	holding, input map[uint16]uint16
	most           int           // values in a request; more are exception 3
	delay          time.Duration // before it answers
	faults         []fault       // for the next answers; nil means none
	always         fault         // for all others
	mute           map[uint16]bool
}

// sim is several slaves on the far end of a wire.
type sim struct {
	t  testing.TB
	rw io.ReadWriteCloser

	mu     sync.Mutex // guards what follows
	slaves map[byte]*simSlave
	asked  []string // requests: "slave function address count"
	times  []time.Time
}

func newSim(t testing.TB, slaves map[byte]*simSlave) (*sim, *wire) {
	near, far := net.Pipe()
	s := &sim{t: t, rw: far, slaves: slaves}
	w := newWire(t, near)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.serve()
	}()
	t.Cleanup(func() {
		_ = far.Close()
		<-done
	})
	return s, w
}

func (s *sim) serve() {
	var buf []byte
	b := make([]byte, 512)
	for {
		n, err := s.rw.Read(b)
		if err != nil {
			return
		}
		buf = append(buf, b[:n]...)
		for {
			n := requestLength(buf)
			if n == 0 || len(buf) < n {
				break
			}
			request := append([]byte{}, buf[:n]...)
			buf = buf[n:]
			if crc := crc16(request[:n-2]); request[n-2] != byte(crc) || request[n-1] != byte(crc>>8) {
				s.t.Errorf("a request with a wrong CRC: % x", request)
				return
			}
			s.handle(request)
		}
	}
}

func requestLength(b []byte) int {
	switch {
	case len(b) < 7:
		return 0
	case b[1] == 15 || b[1] == 16:
		return 9 + int(b[6])
	default:
		return 8
	}
}

func (s *sim) handle(request []byte) {
	address, count := binary.BigEndian.Uint16(request[2:]), binary.BigEndian.Uint16(request[4:])
	s.mu.Lock()
	s.asked = append(s.asked, fmt.Sprintf("%d %d %d %d", request[0], request[1], address, count))
	s.times = append(s.times, time.Now())
	if request[0] == 0 {
		for _, slave := range s.slaves {
			slave.do(request)
		}
		s.mu.Unlock()
		return
	}
	slave := s.slaves[request[0]]
	if slave == nil || slave.mute[address] {
		s.mu.Unlock()
		return
	}
	answer := slave.do(request)
	how := slave.always
	if len(slave.faults) > 0 {
		how, slave.faults = slave.faults[0], slave.faults[1:]
	}
	delay := slave.delay
	s.mu.Unlock()
	time.Sleep(delay) // in a bubble
	if how != nil {
		how(s, answer)
		return
	}
	s.write(answer)
}

func (s *sim) write(b []byte) { _, _ = s.rw.Write(b) }

// do carries out a request and returns the answer.
func (d *simSlave) do(q []byte) []byte {
	address, count := int(binary.BigEndian.Uint16(q[2:])), int(binary.BigEndian.Uint16(q[4:]))
	refuse := func(code byte) []byte { return sealed(q[0], q[1]|0x80, code) }
	if q[1] == 5 || q[1] == 6 {
		count = 1
	}
	if d.most > 0 && count > d.most {
		return refuse(3)
	}
	bits, words := d.coils, d.holding
	if q[1] == 2 {
		bits = d.inputs
	}
	if q[1] == 4 {
		words = d.input
	}
	out := []byte{q[0], q[1], 0}
	for i := range count {
		at := uint16(address + i)
		bit, isBit := bits[at]
		word, isWord := words[at]
		switch q[1] {
		case 1, 2, 5, 15:
			if !isBit {
				return refuse(2)
			}
			if i%8 == 0 {
				out = append(out, 0)
			}
			if bit {
				out[len(out)-1] |= 1 << (i % 8)
			}
		case 3, 4, 6, 16:
			if !isWord {
				return refuse(2)
			}
			out = append(out, byte(word>>8), byte(word))
		default:
			return refuse(1)
		}
		switch q[1] {
		case 5:
			bits[at] = q[4] == 0xFF
		case 6:
			words[at] = binary.BigEndian.Uint16(q[4:])
		case 15:
			bits[at] = q[7+i/8]>>(i%8)&1 == 1
		case 16:
			words[at] = binary.BigEndian.Uint16(q[7+2*i:])
		}
	}
	if q[1] <= 4 {
		out[2] = byte(len(out) - 3)
		return sealed(out...)
	}
	return sealed(q[:6]...)
}

// requests returns and forgets what was asked.
func (s *sim) requests() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	asked := s.asked
	s.asked = nil
	return asked
}

func (s *sim) change(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	f()
}

// The faults.
func lost(*sim, []byte) {}

func damaged(s *sim, b []byte) {
	b[len(b)/2] ^= 0x40
	s.write(b)
}

func cut(s *sim, b []byte) { s.write(b[:len(b)-1]) }

func dribbled(s *sim, b []byte) {
	for i := range b {
		s.write(b[i : i+1])
		time.Sleep(3 * time.Millisecond)
	}
}

func noisy(s *sim, b []byte) {
	s.write([]byte{0x00, 0xFF, b[0], 0x80})
	s.write(append(b, 0xFE))
}

func noise(s *sim, _ []byte) { s.write([]byte{0xFF, 0x13, 0x00, 0x55, 0xAA, 0x42}) }

func foreign(s *sim, b []byte) { s.write(sealed(append([]byte{b[0] + 1}, b[1:len(b)-2]...)...)) }

func otherFunction(s *sim, b []byte) {
	s.write(sealed(append([]byte{b[0], b[1] ^ 7}, b[2:len(b)-2]...)...))
}

func longer(s *sim, b []byte) {
	c := append(append([]byte{}, b[:len(b)-2]...), 0, 7)
	c[2] += 2
	s.write(sealed(c...))
}

func otherEcho(s *sim, b []byte) {
	c := append([]byte{}, b[:len(b)-2]...)
	c[3]++
	s.write(sealed(c...))
}

func refusing(code byte) fault {
	return func(s *sim, b []byte) { s.write(sealed(b[0], b[1]|0x80, code)) }
}
