package main

import (
	"fmt"
	"strconv"
	"strings"
	"sync"
	"testing"

	"fieldbridge/bridge/devbroker"
)

// numbered is the oracle of conservation: it numbers the readings of each device
// and says whether all of them arrived in order. Any goroutine may use it.
type numbered struct {
	mu     sync.Mutex // guards what follows
	last   map[string]int
	denied map[string]map[int]bool
}

func newNumbered() *numbered {
	return &numbered{last: map[string]int{}, denied: map[string]map[int]bool{}}
}

// next returns the payload of the device's next reading: "device#1", then
// "device#2".
func (n *numbered) next(device string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last[device]++
	return fmt.Sprintf("%s#%d", device, n.last[device])
}

// deny notes that the sender of a reading was told no: it need not arrive, but
// may, in its place.
func (n *numbered) deny(payload string) {
	device, number := split(payload)
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.denied[device] == nil {
		n.denied[device] = map[int]bool{}
	}
	n.denied[device][number] = true
}

func split(payload string) (device string, number int) {
	device, digits, ok := strings.Cut(payload, "#")
	number, err := strconv.Atoi(digits)
	if !ok || err != nil {
		return payload, 0
	}
	return device, number
}

// arrived returns how many different readings of the device are among payloads.
func arrived(device string, payloads []string) int {
	seen := map[string]bool{}
	for _, p := range payloads {
		if d, number := split(p); d == device && number > 0 {
			seen[p] = true
		}
	}
	return len(seen)
}

// check fails the test unless the payloads, in the order of their arrival, are
// complete and in order for each device. With duplicates, a reading that has
// arrived may come again.
func (n *numbered) check(t *testing.T, payloads []string, duplicates bool) {
	t.Helper()
	for _, fault := range n.faults(payloads, duplicates) {
		t.Error(fault)
	}
}

func (n *numbered) faults(payloads []string, duplicates bool) (faults []string) {
	say := func(format string, args ...any) { faults = append(faults, fmt.Sprintf(format, args...)) }
	n.mu.Lock()
	defer n.mu.Unlock()
	at := map[string]int{} // the highest number that arrived
	seen := map[string]bool{}
	missing := func(device string, to int) {
		for number := at[device] + 1; number < to; number++ {
			if !n.denied[device][number] {
				say("reading %s#%d is missing", device, number)
			}
		}
	}
	for i, p := range payloads {
		device, number := split(p)
		switch {
		case number < 1 || number > n.last[device]:
			say("arrival %d, %q, was never sent", i, p)
		case seen[p] && !duplicates:
			say("arrival %d, %s, is a duplicate", i, p)
		case seen[p]:
		case number < at[device]:
			say("arrival %d, %s, comes after %s#%d", i, p, device, at[device])
		default:
			missing(device, number)
			at[device] = number
		}
		seen[p] = true
	}
	for device, last := range n.last {
		missing(device, last+1)
	}
	return faults
}

// payloadsOf are the payloads of the messages that have arrived.
func payloadsOf(messages []devbroker.Message) []string {
	var out []string
	for _, m := range messages {
		out = append(out, string(m.Payload))
	}
	return out
}

func TestNumberedFindsWhatIsWrong(t *testing.T) {
	n := newNumbered()
	for range 3 {
		n.next("a")
		n.next("b")
	}
	n.deny("b#2")
	for _, c := range []struct {
		name, arrivals string
		duplicates     bool
		want           string
	}{
		{name: "all in order", arrivals: "a#1 b#1 b#3 a#2 a#3"},
		{name: "denied but arrived", arrivals: "a#1 b#1 b#2 a#2 b#3 a#3"},
		{name: "lost in the middle", arrivals: "a#1 a#3 b#1 b#3", want: "reading a#2 is missing"},
		{name: "lost at the end", arrivals: "a#1 a#2 b#1 b#3", want: "reading a#3 is missing"},
		{name: "all lost", arrivals: "a#1 a#2 a#3", want: "reading b#1 is missing; reading b#3 is missing"},
		{name: "denied, but late", arrivals: "a#1 a#2 a#3 b#1 b#3 b#2", want: "arrival 5, b#2, comes after b#3"},
		{name: "swapped", arrivals: "a#2 a#1 a#3 b#1 b#3", want: "reading a#1 is missing; arrival 1, a#1, comes after a#2"},
		{name: "twice", arrivals: "a#1 a#1 a#2 a#3 b#1 b#3", want: "arrival 1, a#1, is a duplicate"},
		{name: "twice, as allowed", arrivals: "a#1 a#2 a#1 a#3 b#1 b#3", duplicates: true},
		{name: "foreign", arrivals: "a#1 a#2 a#3 b#1 b#3 b#4", want: `arrival 5, "b#4", was never sent`},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := strings.Join(n.faults(strings.Fields(c.arrivals), c.duplicates), "; ")
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
