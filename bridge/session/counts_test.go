package session

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCauseOf(t *testing.T) {
	for _, c := range []struct {
		err  error
		want Cause
	}{
		{&failure{errors.New("the clock is wrong"), NoCredentials}, NoCredentials},
		{&failure{errors.New("refused"), Unreachable}, Unreachable},
		{&failure{&ReasonError{Packet: "CONNACK", Code: 0x86}, NotLoggedIn}, NotLoggedIn},
		{fmt.Errorf("wrapped: %w", &failure{errors.New("x"), NotLoggedIn}), NotLoggedIn},
		{&ReasonError{Packet: "DISCONNECT", Code: 0x8E}, Disconnected},
		{fmt.Errorf("connection lost: %w", errors.New("EOF")), ConnectionLost},
		{errors.New("subscribe: no answer from the broker"), ConnectionLost},
		{errPuback{1}, PubackTimeout},
		{errReconnect, OutOfStep},
	} {
		if got := causeOf(c.err); got != c.want {
			t.Errorf("causeOf(%v) = %v, want %v", c.err, got, c.want)
		}
	}
}

func TestCausesHaveNames(t *testing.T) {
	seen := map[string]Cause{}
	for c := range Cause(causes) {
		name := c.String()
		if other, ok := seen[name]; ok || name == "" || name != strings.ToLower(name) || strings.ContainsAny(name, " -") {
			t.Errorf("cause %d is named %q, as is %d", c, name, other)
		}
		seen[name] = c
	}
}

// TestFailureKeepsWhatItIs: the pauses and the messages go by the error within.
func TestFailureKeepsWhatItIs(t *testing.T) {
	inner := &ReasonError{Packet: "CONNACK", Code: 0x87}
	var err error = &failure{inner, NotLoggedIn}
	var got *ReasonError
	if !errors.As(err, &got) || got != inner || err.Error() != inner.Error() {
		t.Errorf("%v hides %v", err, inner)
	}
}

func TestCounts(t *testing.T) {
	var c Counts
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 100 {
				c.code(pubackPacket, 0x00)
				c.code(pubackPacket, 0x97)
				c.reconnect(Renewed)
			}
		})
	}
	all.Wait()
	c.answer(fmt.Errorf("x: %w", &ReasonError{Packet: "CONNACK", Code: 0x86}))
	c.answer(&ReasonError{Packet: "DISCONNECT", Code: 0x8E})
	c.answer(errReconnect)
	if diff := cmp.Diff(map[string]map[byte]uint64{
		"PUBACK": {0: 800, 0x97: 800}, "CONNACK": {0x86: 1}, "DISCONNECT": {0x8E: 1}, "SUBACK": {},
	}, maps.Collect(c.Codes())); diff != "" {
		t.Errorf("codes (-want +got):\n%s", diff)
	}
	got := maps.Collect(c.Reconnects())
	if len(got) != causes || got[Renewed] != 800 || got[ConnectionLost] != 0 {
		t.Errorf("reconnects: %v, want all %d causes", got, causes)
	}
	var none *Counts // of a session whose sums nobody wants
	none.code(suback, 0)
	none.answer(&ReasonError{Packet: "CONNACK"})
	none.reconnect(Renewed)
}
