package rest

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/uuid"
	"pgregory.net/rapid"

	"fieldbridge/bridge"
)

// receiptDocument is the body of a 2xx as encoding/json writes it.
type receiptDocument struct {
	ID        string       `json:"id"`
	Timestamp string       `json:"timestamp"`
	Message   string       `json:"message"`
	State     bridge.State `json:"state"`
}

// TestReceipt: what is written by hand is what encoding/json would write, and
// fits where it is written to.
func TestReceipt(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var r bridge.Receipt
		copy(r.ID[:], rapid.SliceOfN(rapid.Byte(), len(r.ID), len(r.ID)).Draw(t, "id"))
		zone := time.FixedZone("", rapid.IntRange(-86399, 86399).Draw(t, "offset"))
		const last = 253402300799 // 9999-12-31T23:59:59Z
		r.Time = time.Unix(rapid.Int64Range(0, last).Draw(t, "seconds"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).In(zone)
		r.State = rapid.SampledFrom([]bridge.State{bridge.Delivered, bridge.Spooled}).Draw(t, "state")
		want, err := json.Marshal(receiptDocument{
			uuid.UUID(r.ID).String(), r.Time.UTC().Format(timeFormat), "uplink received", r.State,
		})
		if err != nil {
			t.Fatal(err)
		}
		got := string(append(appendReceipt([]byte("{"), &r), "}\n"...))
		if diff := cmp.Diff(string(want)+"\n", got); diff != "" {
			t.Error(diff)
		}
		if len(got) > receiptBytes {
			t.Errorf("%d bytes, want at most %d", len(got), receiptBytes)
		}
	})
}

// TestBodies: payloads of every way to send them arrive whole, and are not
// shared with the next ones.
func TestBodies(t *testing.T) {
	in := newIntake()
	s := start(t, Options{MaxBody: 1 << 20}, in)
	c := newClient(t)
	var want []string
	for i, size := range []int{1, 511, smallBody - 1, smallBody, smallBody + 1, 3*smallBody + 7, 1 << 20} {
		for _, chunked := range []bool{false, true} {
			body := strings.Repeat(string(rune('a'+i)), size)
			want = append(want, body)
			var a answer
			if chunked {
				a = postChunked(t, c, s.url("/v1/devices/d1/uplink"), body)
			} else {
				a = post(t, c, s.url("/v1/devices/d1/uplink"), "text/plain", body)
			}
			if a.status != 200 {
				t.Fatalf("%d bytes: status %d: %s", size, a.status, a.body)
			}
		}
	}
	seen := in.take()
	if len(seen) != len(want) {
		t.Fatalf("%d readings, want %d", len(seen), len(want))
	}
	for i := range want {
		if got := string(seen[i].Payload); got != want[i] {
			t.Errorf("payload %d: %d bytes, want %d of %q", i, len(got), len(want[i]), want[i][0])
		}
	}
}
