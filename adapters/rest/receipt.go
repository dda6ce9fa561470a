package rest

import (
	"encoding/hex"
	"net/http"
	"sync"

	"github.com/google/uuid"

	"fieldbridge/bridge"
)

// timeFormat is RFC 3339 with milliseconds, which every client can read.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// What every JSON answer has in its headers. Nobody changes these slices.
var (
	jsonType = []string{"application/json"}
	noStore  = []string{"no-store"}
	noSniff  = []string{"nosniff"}
)

// receiptBytes is more than a receipt has, beside its line number.
const receiptBytes = 192

var receiptBuffers = sync.Pool{New: func() any { return new([receiptBytes]byte) }}

// writeReceipt answers for a reading that is accepted. Its length is left to
// net/http, which knows it of an answer this short.
func writeReceipt(w http.ResponseWriter, r *bridge.Receipt) {
	h := w.Header()
	h["Content-Type"], h["Cache-Control"], h["X-Content-Type-Options"] = jsonType, noStore, noSniff
	status := http.StatusAccepted
	if r.State == bridge.Delivered {
		status = http.StatusOK
	}
	w.WriteHeader(status)
	buf := receiptBuffers.Get().(*[receiptBytes]byte)
	defer receiptBuffers.Put(buf)
	b := appendReceipt(append(buf[:0], '{'), r)
	_, _ = w.Write(append(b, "}\n"...)) // a client that is gone needs no answer
}

// appendReceipt adds the members of a receipt: none of them has anything that
// JSON escapes.
func appendReceipt(b []byte, r *bridge.Receipt) []byte {
	b = append(b, `"id":"`...)
	b = appendUUID(b, r.ID)
	b = append(b, `","timestamp":"`...)
	b = r.Time.UTC().AppendFormat(b, timeFormat)
	b = append(b, `","message":"uplink received","state":"`...)
	b = append(b, r.State...)
	return append(b, '"')
}

// appendUUID is uuid.UUID.String without a string.
func appendUUID(b []byte, id uuid.UUID) []byte {
	b = hex.AppendEncode(b, id[:4])
	for _, part := range [...][2]int{{4, 6}, {6, 8}, {8, 10}, {10, 16}} {
		b = hex.AppendEncode(append(b, '-'), id[part[0]:part[1]])
	}
	return b
}
