package main

import (
	"strings"
	"time"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge"
	"fieldbridge/bridge/spool"
)

// mailboxesDocument is about the mailboxes of all devices.
type mailboxesDocument struct {
	// Count is how many there are, Holding how many of them hold Downlinks.
	Count     int   `json:"count"`
	Holding   int   `json:"holding"`
	Downlinks int64 `json:"downlinks"`
	// Oldest is when the oldest of the downlinks was received, OldestDevice in
	// whose mailbox it is.
	Oldest       string          `json:"oldest,omitempty"`
	OldestDevice bridge.DeviceID `json:"oldestDevice,omitempty"`
}

// mailboxes is what waits in all mailboxes, by their names as targets. It is at
// most backlogsAge old, and is not changed any more.
func (st *states) mailboxes() map[string]spool.Waiting {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.counted.IsZero() && time.Since(st.counted) < backlogsAge {
		return st.boxes
	}
	boxes, err := st.g.spool.DownlinksOf(bridge.MailboxTargets)
	if err != nil {
		st.g.log.Debug("downlinks in mailboxes not counted", "error", err)
		return st.boxes
	}
	st.boxes, st.counted = boxes, time.Now()
	return boxes
}

// mailbox is what waits in a device's mailbox; nil if it has none.
func (st *states) mailbox(id bridge.DeviceID) *rest.MailboxState {
	if _, err := st.g.bridge.Mailbox(id); err != nil {
		return nil
	}
	w := st.mailboxes()[bridge.MailboxTargets+string(id)]
	return &rest.MailboxState{Downlinks: w.Downlinks, Oldest: received(w.Received)}
}

// mailboxesDocument is nil if there are none. Downlinks that are stored for a
// mailbox that is not there any more do not count.
func (st *states) mailboxesDocument() *mailboxesDocument {
	d := &mailboxesDocument{}
	for _, routes := range st.l.layout.routes {
		for _, r := range routes {
			if r.Mailbox {
				d.Count++
				break
			}
		}
	}
	if d.Count == 0 {
		return nil
	}
	var oldest time.Time
	for name, w := range st.mailboxes() {
		id := bridge.DeviceID(strings.TrimPrefix(name, bridge.MailboxTargets))
		if _, err := st.g.bridge.Mailbox(id); err != nil {
			continue
		}
		d.Holding++
		d.Downlinks += w.Downlinks
		if !w.Received.IsZero() && (oldest.IsZero() || w.Received.Before(oldest)) {
			oldest, d.OldestDevice = w.Received, id
		}
	}
	d.Oldest = received(oldest)
	return d
}

// received shows a time as it was written down, or "".
func received(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}
