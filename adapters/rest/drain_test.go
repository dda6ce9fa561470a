package rest

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"fieldbridge/bridge"
)

// held is an intake whose Accept waits until it is let go or cancelled.
func held() (in *intake, entered, let chan struct{}) {
	in = newIntake()
	entered, let = in.hold()
	return in, entered, let
}

// hold makes Accept wait. In a bubble it is called there.
func (in *intake) hold() (entered, let chan struct{}) {
	entered, let = make(chan struct{}, 16), make(chan struct{})
	in.answer = func(ctx context.Context, r bridge.Reading) (bridge.Receipt, error) {
		entered <- struct{}{}
		select {
		case <-let:
			return delivered(r), nil
		case <-ctx.Done():
			return bridge.Receipt{}, ctx.Err()
		}
	}
	return entered, let
}

type posted struct {
	answer
	err error
}

// postAside posts while the test goes on.
func postAside(t *testing.T, url string) <-chan posted {
	c, done := newClient(t), make(chan posted, 1)
	go func() {
		a, err := tryPost(c, url, "text/plain", "x")
		done <- posted{a, err}
	}()
	return done
}

func TestDrainAnswersWhatWaits(t *testing.T) {
	in, entered, let := held()
	s := start(t, Options{}, in)
	kept := dial(t, s.Addr())
	if a := exchange(t, kept, request("GET", "/healthz", "")); a.status != http.StatusOK || a.closes {
		t.Fatalf("answer %+v", a)
	}
	one, two := postAside(t, s.url("/v1/devices/d1/uplink")), postAside(t, s.url("/v1/devices/uplink/uplink/x"))
	within(t, entered)
	within(t, entered)

	s.stop()
	<-s.Shut()
	checkStops := func(a answer) {
		t.Helper()
		checkProblem(t, a, http.StatusServiceUnavailable, "fieldbridge stops")
		if got := a.header.Get("Retry-After"); got != "5" || !a.closes {
			t.Errorf("Retry-After %q, closes: %v", got, a.closes)
		}
	}
	checkStops(exchange(t, kept, request("POST", "/v1/devices/d1/uplink", "1")))
	for range 3 {
		checkStops(sendRaw(t, s.Addr(), request("POST", "/v1/devices/d1/uplink", "1")))
	}
	checkStops(sendRaw(t, s.Addr(), request("POST", "/v1/uplinks", "")))
	ready := sendRaw(t, s.Addr(), request("GET", "/readyz", ""))
	if ready.status != http.StatusServiceUnavailable || !strings.Contains(string(ready.body), `"not ready"`) || ready.header.Get("Retry-After") != "5" {
		t.Errorf("readyz: %d %s", ready.status, ready.body)
	}
	if a := sendRaw(t, s.Addr(), request("GET", "/healthz", "")); a.status != http.StatusOK || !a.closes {
		t.Errorf("healthz: %+v", a)
	}
	select {
	case err := <-s.done:
		t.Fatalf("Run returned before the readings were answered: %v", err)
	default:
	}
	close(let)
	for _, c := range []<-chan posted{one, two} {
		if p := within(t, c); p.err != nil || p.status != http.StatusOK || !p.closes {
			t.Errorf("answer %d, closes %v, error %v", p.status, p.closes, p.err)
		}
	}
	if err := within(t, s.done); err != nil {
		t.Errorf("Run: %v", err)
	}
	if conn, err := net.Dial("tcp", s.Addr().String()); err == nil {
		conn.Close()
		t.Error("new connections are still taken")
	}
	if n := len(in.take()); n != 2 {
		t.Errorf("the accepter saw %d readings, want 2", n)
	}
}

// A body that does not come is waited for until the drain is over, and then told.
func TestDrainTellsSlowBodies(t *testing.T) {
	withBubbleStop(t, Options{}, newIntake(), func(t *testing.T, p *pipes, stop func() time.Duration) {
		slow := p.dial()
		defer slow.Close()
		write(t, slow, request("POST", "/v1/devices/d1/uplink", "123", "Content-Type: text/plain", "Content-Length: 10"))
		synctest.Wait()
		ended := make(chan time.Duration)
		go func() { ended <- stop() }()
		a, took := response(t, slow)
		checkProblem(t, a, http.StatusServiceUnavailable, "fieldbridge stops")
		if took != DefaultDrainTimeout || !a.closes {
			t.Errorf("answered after %v, want %v; closes: %v", took, DefaultDrainTimeout, a.closes)
		}
		_, _ = io.Copy(io.Discard, slow)
		if d := <-ended; d > DefaultDrainTimeout+cutTime {
			t.Errorf("Run ended after %v", d)
		}
	})
}

// Nobody is waited for who has nothing in progress.
func TestDrainOfNothingEndsAtOnce(t *testing.T) {
	withBubbleStop(t, Options{}, newIntake(), func(t *testing.T, p *pipes, stop func() time.Duration) {
		silent, half, kept := p.dial(), p.dial(), p.dial()
		defer silent.Close()
		defer half.Close()
		defer kept.Close()
		write(t, half, "POST /v1/devices/d1/uplink HTTP/1.1\r\nHost: localhost\r\n")
		write(t, kept, request("POST", "/v1/devices/d1/uplink", "1"))
		if a, _ := response(t, kept); a.status != http.StatusOK {
			t.Errorf("status %d", a.status)
		}
		synctest.Wait()
		if d := stop(); d != 0 {
			t.Errorf("Run ended after %v", d)
		}
	})
}

// What is being refused when the last reading is answered gets its answer, too.
func TestDrainEndsWithItsAnswers(t *testing.T) {
	in, entered, let := held()
	asked, tell := make(chan struct{}), make(chan struct{})
	s := start(t, Options{Ready: func() (bool, any) {
		asked <- struct{}{}
		<-tell
		return true, nil
	}}, in)
	one := postAside(t, s.url("/v1/devices/d1/uplink"))
	within(t, entered)
	s.stop()
	<-s.Shut()
	conn := dial(t, s.Addr())
	write(t, conn, request("GET", "/readyz", ""))
	within(t, asked)
	close(let)
	if p := within(t, one); p.err != nil || p.status != http.StatusOK {
		t.Errorf("answer %d, error %v", p.status, p.err)
	}
	<-s.closed // the drain is over
	close(tell)
	if a := exchange(t, conn, ""); a.status != http.StatusServiceUnavailable {
		t.Errorf("readyz: status %d", a.status)
	}
	if err := within(t, s.done); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestDrainIsBounded(t *testing.T) {
	in := newIntake()
	in.answer = func(ctx context.Context, _ bridge.Reading) (bridge.Receipt, error) {
		<-ctx.Done()
		return bridge.Receipt{}, ctx.Err()
	}
	var log logBuffer
	withBubbleStop(t, Options{Logger: log.logger()}, in, func(t *testing.T, p *pipes, stop func() time.Duration) {
		conn := p.dial()
		defer conn.Close()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		synctest.Wait()
		ended := make(chan time.Duration, 1)
		go func() { ended <- stop() }()
		a, _ := response(t, conn)
		checkProblem(t, a, http.StatusServiceUnavailable, "fieldbridge stops")
		if d := <-ended; d < DefaultDrainTimeout || d > DefaultDrainTimeout+cutTime {
			t.Errorf("Run ended after %v, want %v", d, DefaultDrainTimeout)
		}
	})
	if !strings.Contains(log.String(), "http requests cut off") {
		t.Errorf("log:\n%s", log.String())
	}
}

func TestDrainCutsSlowBody(t *testing.T) {
	in := newIntake()
	withBubbleStop(t, Options{}, in, func(t *testing.T, p *pipes, stop func() time.Duration) {
		conn := p.dial()
		defer conn.Close()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1", "Content-Length: 10", "Content-Type: text/plain"))
		synctest.Wait()
		if d := stop(); d > DefaultDrainTimeout+cutTime+time.Second {
			t.Errorf("Run ended after %v", d)
		}
	})
	if n := len(in.take()); n != 0 {
		t.Errorf("the accepter saw %d readings", n)
	}
}

// Run's owner may close what Accept uses as soon as Run has returned.
func TestRunOutlastsAccept(t *testing.T) {
	in := newIntake()
	var ended atomic.Bool
	in.answer = func(ctx context.Context, _ bridge.Reading) (bridge.Receipt, error) {
		<-ctx.Done()
		time.Sleep(time.Minute)
		ended.Store(true)
		return bridge.Receipt{}, ctx.Err()
	}
	withBubbleStop(t, Options{}, in, func(t *testing.T, p *pipes, stop func() time.Duration) {
		conn := p.dial()
		defer conn.Close()
		write(t, conn, request("POST", "/v1/devices/d1/uplink", "1"))
		synctest.Wait()
		stop()
		if !ended.Load() {
			t.Error("Run returned while Accept was under way")
		}
	})
}

func TestCloseEndsRun(t *testing.T) {
	in, entered, _ := held()
	s := start(t, Options{}, in)
	done := postAside(t, s.url("/v1/devices/d1/uplink"))
	within(t, entered)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if err := within(t, s.done); err != nil {
		t.Errorf("Run: %v", err)
	}
	if p := within(t, done); p.err == nil && p.status == http.StatusOK {
		t.Error("a reading that was not accepted got 200")
	}
}
