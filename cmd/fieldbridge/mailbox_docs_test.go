package main

import (
	"bufio"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge/devbroker"
)

const downlinksGuide = "../../docs/downlinks.md"

var (
	anID      = regexp.MustCompile(`[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}`)
	aTime     = regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
	someSpace = regexp.MustCompile(`\s+`)
)

// sameButFor makes one id and one time of all, and no space of any.
func sameButFor(text string) string {
	return someSpace.ReplaceAllString(aTime.ReplaceAllString(anID.ReplaceAllString(text, "ID"), "TIME"), "")
}

// TestMailboxGuide runs what the guide shows of mailboxes: its configuration on a
// gateway, and its commands in a shell, as they stand there but for the port and
// the id, which must fetch what it shows.
func TestMailboxGuide(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"sh", "curl"} {
		if _, err := exec.LookPath(tool); err != nil {
			if os.Getenv("CI") == "true" {
				t.Fatal(err)
			}
			t.Skip(err)
		}
	}
	var config, shown string
	var commands []string // fetch, delete, delete with an answer, stream
	for _, b := range docBlocks(t, downlinksGuide) {
		switch {
		case b.info == "toml" && strings.Contains(b.text, "mailbox"):
			config += b.text
		case b.info == "json":
			shown += b.text
		case b.info == "sh" && strings.Contains(b.text, "/downlinks"):
			commands = append(commands, b.text)
		}
	}
	if len(commands) != 4 {
		t.Fatalf("found the commands %q", commands)
	}
	s := newSite(t)
	g := startGateway(t, s.config("", "", listed("pump-1", "plant")+config), s.Files)
	g.awaitUp()
	shell := guideShell(t, g.Path)
	run := func(command, id string) string {
		t.Helper()
		return shell(anID.ReplaceAllString(strings.ReplaceAll(command, "127.0.0.1:8080", g.HTTP), id))
	}
	down := func(answers string) {
		s.down(devbroker.Message{
			Device: "pump-1", Subtopic: "recipe/7", ContentType: "application/json", Payload: []byte(`{"steps": 3}`),
			CorrelationData: []byte("c-1"), ResponseTopic: answers,
		})
	}
	left := func(n int64) {
		t.Helper()
		if got := g.gw.spool.Stats().Downlinks; got != n {
			t.Errorf("%d downlinks are left, want %d", got, n)
		}
	}
	for i, answer := range []string{"", `{"done":true}`} {
		down("/up/device/id/pump-1/answers")
		got := run(commands[0], "")
		if diff := cmp.Diff(sameButFor(shown), sameButFor(got)); diff != "" {
			t.Fatalf("fetched (-shown +got):\n%s", diff)
		}
		// A stream has the same, on one line.
		if event := firstEvent(t, strings.ReplaceAll(commands[3], "127.0.0.1:8080", g.HTTP)); !strings.Contains(got, event) {
			t.Errorf("fetched %s, but streamed %s", got, event)
		}
		left(1)
		if out := run(commands[1+i], anID.FindString(got)); out != "" {
			t.Errorf("the DELETE printed %s", out)
		}
		left(0)
		if answer == "" {
			continue
		}
		s.awaitPayload(answer)
	}
	if all := s.messages("pump-1"); len(all) != 1 || all[0].ContentType != "application/json" || string(all[0].CorrelationData) != "c-1" {
		t.Errorf("answers: %+v", all)
	}
}

// firstEvent runs a command that streams, and returns the data of the first event.
func firstEvent(t *testing.T, command string) string {
	t.Helper()
	c := exec.Command("sh", "-c", "exec "+command)
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	late := time.AfterFunc(patience, func() { _ = c.Process.Kill() })
	defer func() {
		late.Stop()
		_ = c.Process.Kill()
		_ = c.Wait()
	}()
	for in := bufio.NewScanner(out); in.Scan(); {
		if data, ok := strings.CutPrefix(in.Text(), "data: "); ok {
			return data
		}
	}
	t.Error("the stream had no event")
	return ""
}
