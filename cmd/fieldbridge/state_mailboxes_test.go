package main

import (
	"fmt"
	"net/http"
	"testing"
	"time"

	"fieldbridge/adapters/rest"
	"fieldbridge/bridge/devbroker"
)

// TestMailboxesInTheStatus: what waits in a mailbox shows in the device's state
// and in the status, also after a restart, and not what no mailbox has any more.
func TestMailboxesInTheStatus(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	box := "[[device.downlink]]\nmailbox = true\nsubtopic = %q"
	hook := newWebhook(t, nil)
	text := func(pump string) string {
		return s.config("", "", listed("pump-1", "plant", pump)+listed("pump-2", "plant", webhookTo(hook.URL))+
			listed("app", "yard", fmt.Sprintf(box, "a/#"), fmt.Sprintf(box, "b")))
	}
	g := startGateway(t, text(fmt.Sprintf(box, "#")), s.Files)
	g.awaitUp()
	state := func(device string) *rest.MailboxState {
		t.Helper()
		var d rest.DeviceState
		if code := g.get("/v1/devices/"+device, &d); code != http.StatusOK {
			t.Fatalf("answer %d for %s", code, device)
		}
		return d.Mailbox
	}
	await := func(device string, want rest.MailboxState) {
		t.Helper()
		eventually(t, fmt.Sprintf("%+v of %s", want, device), func() bool {
			got := state(device)
			return got != nil && *got == want
		})
	}
	await("pump-1", rest.MailboxState{})
	await("app", rest.MailboxState{})
	if m := state("pump-2"); m != nil {
		t.Errorf("a device without a mailbox has %+v", m)
	}
	for i := range 3 {
		s.down(devbroker.Message{Device: "pump-1", Payload: fmt.Append(nil, i)})
	}
	mail := newMailApp(t, g.HTTP)
	list := mail.await(3)
	s.down(devbroker.Message{Connector: yardID, Device: "app", Subtopic: "a/x", Payload: []byte("1")})
	oldest := func(i int) string { return list[i].Received.UTC().Format(time.RFC3339) }
	await("pump-1", rest.MailboxState{Downlinks: 3, Oldest: oldest(0)})
	g.awaitStatus("4 of the downlinks are in 2 of 2 mailboxes, the oldest, of pump-1, came ")
	if code := mail.delete(list[0].ID, "", ""); code != http.StatusNoContent {
		t.Fatalf("delete: %d", code)
	}
	await("pump-1", rest.MailboxState{Downlinks: 2, Oldest: oldest(1)})
	g = g.restart()
	await("pump-1", rest.MailboxState{Downlinks: 2, Oldest: oldest(1)})
	var page struct{ Devices []rest.DeviceState }
	if g.get("/v1/devices", &page); len(page.Devices) != 3 || page.Devices[0].Mailbox.Downlinks != 1 || page.Devices[1].Mailbox.Downlinks != 2 || page.Devices[2].Mailbox != nil {
		t.Errorf("%+v", page)
	}
	g.reload(text(""))
	if m := state("pump-1"); m != nil {
		t.Errorf("a device whose mailbox was taken away has %+v", m)
	}
	var doc statusDocument
	eventually(t, "one mailbox in the status", func() bool {
		doc = statusDocument{}
		g.get("/v1/status", &doc)
		return doc.Mailboxes != nil && doc.Mailboxes.Count == 1 && doc.Mailboxes.Holding == 1 && doc.Mailboxes.Downlinks == 1 && doc.Mailboxes.OldestDevice == "app"
	})
	if doc.Spool.Downlinks != 3 {
		t.Errorf("the spool holds %d downlinks, want those of before", doc.Spool.Downlinks)
	}
	g.reload(s.config("", "", listed("pump-1", "plant")))
	doc = statusDocument{}
	if g.get("/v1/status", &doc); doc.Mailboxes != nil {
		t.Errorf("mailboxes %+v without one", doc.Mailboxes)
	}
}
