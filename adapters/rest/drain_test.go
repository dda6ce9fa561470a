package rest

import (
	"context"
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
	in, entered, let = newIntake(), make(chan struct{}, 16), make(chan struct{})
	in.answer = func(ctx context.Context, r bridge.Reading) (bridge.Receipt, error) {
		entered <- struct{}{}
		select {
		case <-let:
			return delivered(r), nil
		case <-ctx.Done():
			return bridge.Receipt{}, ctx.Err()
		}
	}
	return in, entered, let
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
	one, two := postAside(t, s.url("/v1/devices/d1/uplink")), postAside(t, s.url("/v1/devices/uplink/uplink/x"))
	within(t, entered)
	within(t, entered)

	s.stop()
	refused := false
	for deadline := time.Now().Add(patience); !refused && time.Now().Before(deadline); {
		conn, err := net.Dial("tcp", s.Addr().String())
		if refused = err != nil; !refused {
			conn.Close()
		}
	}
	if !refused {
		t.Error("new connections are still taken")
	}
	select {
	case err := <-s.done:
		t.Fatalf("Run returned before the readings were answered: %v", err)
	default:
	}
	close(let)
	for _, c := range []<-chan posted{one, two} {
		if p := within(t, c); p.err != nil || p.status != http.StatusOK {
			t.Errorf("answer %d, error %v", p.status, p.err)
		}
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
