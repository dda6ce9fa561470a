package bridge_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"go.uber.org/goleak"

	"fieldbridge/bridge"
	"fieldbridge/bridge/bridgetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience is the deadline for what must happen.
const patience = time.Minute

// rig is a bridge with the devices a, b and c, and with s, whose readings are
// spooled first, on one uplink.
type rig struct {
	*bridge.Bridge
	up  *bridgetest.Uplink
	sp  *bridgetest.Spool
	log *buffer
}

// buffer is a log.
type buffer struct {
	mu sync.Mutex
	bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.Buffer.String()
}

func newRig(t testing.TB, o bridge.Options) *rig {
	t.Helper()
	return newRigOn(t, o, &bridgetest.Spool{})
}

// newRigOn is a start of the gateway with what is in the spool.
func newRigOn(t testing.TB, o bridge.Options, sp *bridgetest.Spool) *rig {
	t.Helper()
	r := &rig{up: &bridgetest.Uplink{}, sp: sp, log: &buffer{}}
	o.Spool, o.Downlinks, o.Logger = sp, sp, slog.New(slog.NewTextHandler(r.log, nil))
	r.Bridge = bridge.New(o)
	for _, id := range []bridge.DeviceID{"a", "b", "c"} {
		if err := r.Connect(id, bridge.Connection{Uplink: r.up}); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Connect("s", bridge.Connection{Uplink: r.up, SpoolFirst: true}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, m := range slices.Concat(r.up.Misuse(), sp.Misuse()) {
			t.Error(m)
		}
	})
	return r
}

// restart ends the process without warning and starts it again.
func (r *rig) restart(t testing.TB, o bridge.Options) *rig {
	t.Helper()
	again := newRigOn(t, o, r.sp.Crash())
	r.sp.Release()
	if _, err := again.Recover(); err != nil {
		t.Fatal(err)
	}
	return again
}

// bubble runs a test in a synctest bubble.
func bubble(t *testing.T, o bridge.Options, test func(t *testing.T, r *rig)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(t, newRig(t, o)) })
}

// down makes the link fail, as a session would report it.
func (r *rig) down() {
	r.up.SetTrouble("the broker is away")
	r.LinkDown(r.up)
}

func reading(id bridge.DeviceID, payload string) bridge.Reading {
	return bridge.Reading{Device: id, ContentType: "text/plain", Payload: []byte(payload)}
}

func (r *rig) submit(t testing.TB, id bridge.DeviceID, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		if err := r.Submit(t.Context(), reading(id, p)); err != nil {
			t.Fatal(err)
		}
	}
}

// any pulls a reading.
func (r *rig) any(t testing.TB) *bridgetest.Flight {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	f, err := r.up.Wait(ctx)
	if err != nil {
		t.Fatalf("nothing was sent: %v", err)
	}
	return f
}

// next pulls a reading, which must be this one.
func (r *rig) next(t testing.TB, payload string) *bridgetest.Flight {
	t.Helper()
	f := r.any(t)
	if string(f.Reading.Payload) != payload {
		t.Fatalf("%.20q was sent, want %q", f.Reading.Payload, payload)
	}
	return f
}

// ack takes these readings and acknowledges each.
func (r *rig) ack(t testing.TB, payloads ...string) {
	t.Helper()
	for _, p := range payloads {
		r.next(t, p).Ack()
	}
}

// nothing checks, in a bubble, that no reading waits to be sent.
func (r *rig) nothing(t testing.TB) {
	t.Helper()
	synctest.Wait()
	if f := r.up.Pull(); f != nil {
		t.Fatalf("%.20q was sent, want nothing", f.Reading.Payload)
	}
	synctest.Wait()
	if f := r.up.Pull(); f != nil {
		t.Fatalf("%.20q was sent, want nothing", f.Reading.Payload)
	}
}

// stored checks, in a bubble, what is in the spool.
func (r *rig) stored(t testing.TB, payloads ...string) {
	t.Helper()
	synctest.Wait()
	var got []string
	for _, s := range r.sp.Rows() {
		got = append(got, string(s.Payload))
	}
	if !slices.Equal(got, payloads) {
		t.Errorf("stored: %.20q, want %q", got, payloads)
	}
}

// held checks, in a bubble, how many readings are in memory, and that all that
// is counted is there.
func (r *rig) held(t testing.TB, n int) {
	t.Helper()
	synctest.Wait()
	if got := r.Held(); got != n {
		t.Errorf("%d readings are held, want %d", got, n)
	}
	if err := r.CheckLanes(); err != nil {
		t.Error(err)
	}
}

// empty checks, in a bubble, that nothing is left anywhere.
func (r *rig) empty(t testing.TB) {
	t.Helper()
	r.nothing(t)
	r.held(t, 0)
	r.stored(t)
}

// commit makes, in a bubble, everything durable, step by step, and reports
// whether there was anything.
func (r *rig) commit() (any bool) {
	for synctest.Wait(); r.sp.Commit(1) > 0 || r.sp.Queued() > 0; synctest.Wait() {
		any = true
	}
	return any
}

func (r *rig) appends(t testing.TB, n int) {
	t.Helper()
	synctest.Wait()
	if got := r.sp.Appends(); got != n {
		t.Errorf("%d appends, want %d", got, n)
	}
}

type accepted struct {
	receipt bridge.Receipt
	err     error
}

// accept calls Accept in a goroutine that ends with the test.
func (r *rig) accept(t testing.TB, x bridge.Reading) <-chan accepted {
	return r.acceptHow(t.Context(), x, bridge.Handling{})
}

func (r *rig) acceptHow(ctx context.Context, x bridge.Reading, how bridge.Handling) <-chan accepted {
	c := make(chan accepted, 1)
	go func() {
		rec, err := r.Accept(ctx, x, how)
		c <- accepted{rec, err}
	}()
	return c
}

// answer is what an accept got, in a bubble and by now.
func answer(t testing.TB, c <-chan accepted) accepted {
	t.Helper()
	synctest.Wait()
	select {
	case a := <-c:
		return a
	default:
		t.Fatal("no answer yet")
		return accepted{}
	}
}

func wantState(t testing.TB, c <-chan accepted, want bridge.State) bridge.Receipt {
	t.Helper()
	a := answer(t, c)
	if a.err != nil || a.receipt.State != want {
		t.Errorf("got %+v, %v; want %s", a.receipt, a.err, want)
	}
	return a.receipt
}

func wantError(t testing.TB, c <-chan accepted, want error) {
	t.Helper()
	if a := answer(t, c); !errors.Is(a.err, want) {
		t.Errorf("got %+v, %v; want %v", a.receipt, a.err, want)
	}
}

func unanswered(t testing.TB, c <-chan accepted) {
	t.Helper()
	synctest.Wait()
	if len(c) > 0 {
		a := <-c
		t.Fatalf("answered: %+v, %v", a.receipt, a.err)
	}
}

func numbers(n int) (s []string) {
	for i := range n {
		s = append(s, fmt.Sprint(i))
	}
	return s
}

func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }
