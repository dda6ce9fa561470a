package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/session"
	"fieldbridge/bridge/spool"
)

func newSpoolCommand() *cobra.Command {
	var at spoolPlace
	c := &cobra.Command{
		Use:   "spool",
		Short: "Look into the spool: what waits for the broker, and what can never be delivered",
		Long: `Look into the spool: what waits for the broker, and what can never be delivered.
All of it works while the gateway runs and while it does not.`,
		Example: `  fieldbridge spool ls
  fieldbridge spool dead`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newSpoolListCommand(&at), newSpoolExportCommand(&at), newSpoolDeadCommand(&at),
		newDeadCommand(&at, retryDead), newDeadCommand(&at, dropDead))
	for _, sub := range c.Commands() {
		configFlag(sub, &at.config)
		sub.Flags().StringVar(&at.dir, "state-dir", "", "directory of the spool, instead of the configuration's state_dir")
		_ = sub.MarkFlagDirname("state-dir")
	}
	return c
}

// spoolPlace is where the spool is, as the flags say.
type spoolPlace struct{ config, dir string }

// stateDir reads the configuration, unless the directory is given: a
// configuration with a mistake is no reason not to get at one's data.
func (p *spoolPlace) stateDir() (string, error) {
	if p.dir != "" {
		return p.dir, nil
	}
	cfg, err := config.Load(p.config)
	if err != nil {
		return "", err
	}
	return cfg.StateDir, nil
}

// read opens the spool for looking and calls f with it.
func (p *spoolPlace) read(f func(*spool.Reader) error) error {
	dir, err := p.stateDir()
	if err != nil {
		return err
	}
	r, err := spool.OpenReadOnly(dir)
	if err != nil {
		return err
	}
	return errors.Join(f(r), r.Close())
}

func newSpoolListCommand(at *spoolPlace) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "Show how much waits, by device and by target",
		Long: `Show how much waits: readings by device, downlinks by target. Bytes of readings
are as max_bytes counts them, those of downlinks are of their payloads; times are
in UTC.`,
		Example: "  fieldbridge spool ls --config /etc/fieldbridge/fieldbridge.toml",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return at.read(func(r *spool.Reader) error { return listSpool(c.OutOrStdout(), r) })
		},
	}
}

// waits is what waits for one device or target.
type waits struct {
	name     string
	n, bytes int64
	oldest   time.Time // zero: unknown
}

func (w *waits) add(o waits) {
	if w.n == 0 || !o.oldest.IsZero() && (w.oldest.IsZero() || o.oldest.Before(w.oldest)) {
		w.oldest = o.oldest
	}
	w.n += o.n
	w.bytes += o.bytes
}

func listSpool(out io.Writer, r *spool.Reader) error {
	backlogs, err := r.Backlogs()
	if err != nil {
		return err
	}
	var devices []waits
	for _, b := range backlogs {
		devices = append(devices, waits{string(b.Device), b.Readings, b.Bytes, b.Accepted})
	}
	slices.SortFunc(devices, func(a, b waits) int { return strings.Compare(a.name, b.name) })

	var targets []waits
	places := map[string]int{} // in targets
	err = r.Downlinks(func(d bridge.StoredDownlink) error {
		i, ok := places[d.Target]
		if !ok {
			i = len(targets)
			places[d.Target] = i
			targets = append(targets, waits{name: d.Target})
		}
		targets[i].add(waits{n: 1, bytes: int64(len(d.Payload)), oldest: d.Received})
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(targets, func(a, b waits) int { return strings.Compare(a.name, b.name) })

	t := newTable(out, "DEVICE", "READINGS", "BYTES", "OLDEST")
	t.waits(devices)
	fmt.Fprintln(t.w)
	t.row("TARGET", "DOWNLINKS", "BYTES", "OLDEST")
	t.waits(targets)
	return t.w.Flush()
}

// table prints columns.
type table struct{ w *tabwriter.Writer }

func newTable(out io.Writer, head ...string) table {
	t := table{tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)}
	t.row(head...)
	return t
}

func (t table) row(cells ...string) {
	for i, c := range cells {
		cells[i] = shown(c)
	}
	fmt.Fprintln(t.w, strings.Join(cells, "\t"))
}

// waits prints a row for each, and the total.
func (t table) waits(list []waits) {
	total := waits{name: "total"}
	for _, w := range list {
		t.row(w.name, strconv.FormatInt(w.n, 10), strconv.FormatInt(w.bytes, 10), when(w.oldest))
		total.add(w)
	}
	t.row(total.name, strconv.FormatInt(total.n, 10), strconv.FormatInt(total.bytes, 10), when(total.oldest))
}

// when shows an instant; a zero one is not known.
func when(at time.Time) string {
	if at.IsZero() {
		return "-"
	}
	return at.UTC().Format(time.RFC3339)
}

// shown quotes what would upset a terminal or a table: sub topics and
// reasons come from outside.
func shown(s string) string {
	if s == "" {
		return "-"
	}
	if strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) || r == unicode.ReplacementChar }) {
		return strconv.Quote(s)
	}
	return s
}

func newSpoolDeadCommand(at *spoolPlace) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "dead",
		Short: "List the dead letters: what can never be delivered, and why",
		Long: `List the dead letters: readings that the broker refused and downlinks that their
target refused or that expired, with the reason. The answer to a downlink is a
reading, too, and shown as an answer. The size is that of the payload
in bytes; times are in UTC.`,
		Example: `  fieldbridge spool dead
  fieldbridge spool dead --json | jq 'select(.code == 153)'`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return at.read(func(r *spool.Reader) error {
				if asJSON {
					return listDeadJSON(c.OutOrStdout(), r)
				}
				return listDead(c.OutOrStdout(), r)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "one JSON object a line")
	return c
}

// deadDocument is a dead letter as people and programs see it, without its
// payload.
type deadDocument struct {
	Number   int64           `json:"number"`
	Kind     string          `json:"kind"`
	ID       string          `json:"id"`
	Device   bridge.DeviceID `json:"device"`
	Subtopic string          `json:"subtopic"`
	Target   string          `json:"target,omitempty"` // of downlinks only
	Code     byte            `json:"code,omitempty"`   // 0: there was none
	CodeName string          `json:"codeName,omitempty"`
	Reason   string          `json:"reason"`
	Died     string          `json:"died,omitempty"` // empty: the clock was not trusted
	Size     int             `json:"size"`
	Response bool            `json:"response,omitempty"` // a reading that answers a downlink
}

func newDeadDocument(l *spool.DeadLetter) deadDocument {
	d := deadDocument{Number: l.No, Kind: l.Kind, Reason: l.Reason}
	if l.Kind == spool.KindDownlink {
		d.ID, d.Device, d.Subtopic = l.Downlink.ID, l.Downlink.Device, l.Downlink.Subtopic
		d.Target, d.Size = l.Downlink.Target, len(l.Downlink.Payload)
	} else {
		d.ID, d.Device, d.Subtopic = l.Reading.ID.String(), l.Reading.Device, string(l.Reading.Subtopic)
		d.Size, d.Response = len(l.Reading.Payload), l.Reading.ResponseTopic != ""
	}
	if l.Code != 0 {
		d.Code, d.CodeName = l.Code, session.CodeName(l.Code)
	}
	if !l.Died.IsZero() {
		d.Died = when(l.Died)
	}
	return d
}

func listDeadJSON(out io.Writer, r *spool.Reader) error {
	enc := newLineEncoder(out)
	return r.DeadLetters(0, func(l spool.DeadLetter) error { return enc.Encode(newDeadDocument(&l)) })
}

func listDead(out io.Writer, r *spool.Reader) error {
	t := newTable(out, "NUMBER", "KIND", "DEVICE", "SUBTOPIC", "TARGET", "CODE", "DIED", "SIZE", "REASON")
	err := r.DeadLetters(0, func(l spool.DeadLetter) error {
		d := newDeadDocument(&l)
		code, reason := "", d.Reason
		if d.Code != 0 {
			code = fmt.Sprintf("0x%02X %s", d.Code, d.CodeName)
			// Most reasons begin with the code's name.
			reason = strings.TrimPrefix(strings.TrimPrefix(reason, d.CodeName), ": ")
		}
		kind := d.Kind
		if d.Response {
			kind = "answer"
		}
		t.row(strconv.FormatInt(d.Number, 10), kind, string(d.Device), d.Subtopic, d.Target, code, d.Died,
			strconv.Itoa(d.Size), reason)
		return nil
	})
	return errors.Join(err, t.w.Flush())
}
