package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"fieldbridge/adapters/serial"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

type listenFlags struct {
	config, port, record string
	hex                  bool
	duration             time.Duration
}

func newListenCommand() *cobra.Command {
	var f listenFlags
	c := &cobra.Command{
		Use:   "listen",
		Short: "Show live what comes in on one serial port, and why frames are refused",
		Long: `Open one serial port of the configuration and show what comes in: each frame, the
reading that it becomes, with its device and sub topic, and each frame that is
refused, with the reason and its bytes. Nothing is sent to a broker. Polls and
Modbus requests are sent as configured.

It opens the port itself, so the daemon must not have it. It ends with a summary
on ctrl-c, or after --for. With --record all bytes are written to a file, which a
port with port = "replay:FILE" plays again.`,
		Example: `  fieldbridge listen --config fieldbridge.toml --port scale
  fieldbridge listen --port scale --hex --for 10s
  fieldbridge listen --port scale --record scale.jsonl`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error { return runListen(c, f) },
	}
	configFlag(c, &f.config)
	c.Flags().StringVar(&f.port, "port", "", "name of a [[serial]] block (required)")
	c.Flags().StringVar(&f.record, "record", "", "write what passes to this file, which must not exist yet")
	c.Flags().BoolVar(&f.hex, "hex", false, "show frames in hexadecimal, and all bytes as they come and go")
	c.Flags().DurationVar(&f.duration, "for", 0, "end after this time; 0 listens until ctrl-c")
	_ = c.MarkFlagRequired("port")
	return c
}

func runListen(c *cobra.Command, f listenFlags) error {
	if f.duration < 0 {
		return usagef("--for must not be below zero (got %s)", f.duration)
	}
	cfg, err := config.Load(f.config)
	if err != nil {
		return err
	}
	if err := serialMistakes(cfg); err != nil {
		return err
	}
	s, err := portOf(cfg, f.port)
	if err != nil {
		return err
	}
	if err := notTaken(c.Context(), cfg, s); err != nil {
		return err
	}
	out := c.OutOrStdout()
	l := &listener{
		view: newView(out, f.hex, isTerminal(out) && os.Getenv("NO_COLOR") == ""),
		port: s, events: make(chan sighting, 4096), began: time.Now(),
	}
	if f.record != "" {
		file, err := os.OpenFile(f.record, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
		if err != nil {
			return fmt.Errorf("--record: %w", err)
		}
		defer file.Close() // an error shows when it is flushed
		l.file = bufio.NewWriter(file)
		l.recorder = serial.NewRecorder(l.file)
	}
	ctx := c.Context()
	if f.duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, f.duration)
		defer cancel()
	}
	log := slog.New(slog.NewTextHandler(c.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelError}))
	l.line, err = newLine(*s, lineOptions{to: l, log: log, observe: l.observe})
	if err != nil {
		return err
	}
	return l.run(ctx)
}

func portOf(cfg *config.Config, name string) (*config.Serial, error) {
	var names []string
	for i := range cfg.Serials {
		if cfg.Serials[i].Name == name {
			return &cfg.Serials[i], nil
		}
		names = append(names, cfg.Serials[i].Name)
	}
	if len(names) == 0 {
		return nil, usagef("--port: %s has no [[serial]] block", cfg.File)
	}
	return nil, usagef("--port: no serial port is named %q in %s; there are: %s", name, cfg.File, strings.Join(names, ", "))
}

// notTaken finds out whether the daemon has the port. The kernel alone does not
// keep root from opening it twice.
func notTaken(ctx context.Context, cfg *config.Config, s *config.Serial) error {
	at, err := dialAddress(cfg.HTTP.Listen)
	if err != nil || strings.HasPrefix(s.Port, "replay:") {
		return nil // then nobody can be asked
	}
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	e := endpoint{address: at, token: readToken(cfg)}
	if err := e.trust(cfg); err != nil {
		return err
	}
	doc, _, err := e.status(ctx)
	if err != nil {
		return nil // no daemon runs
	}
	for _, p := range doc.Ports {
		if p.Name == s.Name && p.Up && p.Port == portName(*s) {
			return fmt.Errorf("the daemon at %s has the port %s open: stop it first (systemctl stop fieldbridge), or look at fieldbridge status", at, s.Name)
		}
	}
	return nil
}

// sighting is an event to be shown.
type sighting struct {
	serial.Event
	reading *bridge.Reading // of a Modbus poll
}

// listener runs one port for people.
type listener struct {
	view
	line   *line
	port   *config.Serial
	began  time.Time
	events chan sighting

	mu       sync.Mutex // guards what follows
	recorder *serial.Recorder
	file     *bufio.Writer
	in, out  uint64 // bytes
	hidden   uint64 // events for which the terminal was too slow
}

// observe is serial.Options.Observe.
func (l *listener) observe(e serial.Event) {
	l.mu.Lock()
	if l.recorder != nil {
		l.recorder.Record(e)
	}
	switch e.Kind {
	case serial.BytesIn:
		l.in += uint64(len(e.Bytes))
	case serial.BytesOut:
		l.out += uint64(len(e.Bytes))
	}
	l.mu.Unlock()
	e.Bytes = bytes.Clone(e.Bytes)
	l.show(sighting{Event: e})
}

func (l *listener) show(s sighting) {
	select {
	case l.events <- s:
	default: // a slow terminal must not hold up the port
		l.mu.Lock()
		l.hidden++
		l.mu.Unlock()
	}
}

// Submit implements serial.Accepter. Frames have been shown by observe.
func (l *listener) Submit(_ context.Context, r bridge.Reading) error {
	if l.line.master != nil {
		l.show(sighting{Event: serial.Event{At: r.Time}, reading: &r})
	}
	return nil
}

// run shows what happens until ctx is done. A port that cannot be opened at all
// ends it.
func (l *listener) run(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	var work errgroup.Group
	work.Go(func() error { return l.line.Run(ctx) })
	failed := l.follow(ctx)
	stop()
	err := work.Wait()
	l.drain()
	if failed != nil {
		_ = l.view.out.Flush()
		return failed
	}
	l.summary()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.recorder != nil {
		err = errors.Join(err, l.recorder.Err(), l.file.Flush())
	}
	return errors.Join(err, l.view.out.Flush())
}

// follow shows events, and what becomes of the port, until ctx is done or the
// first attempt to open it has failed.
func (l *listener) follow(ctx context.Context) error {
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	var was serial.Stats
	failures := map[string]bool{}
	for {
		select {
		case e := <-l.events:
			if !was.Up { // say first where it comes from
				was = l.changes(was)
			}
			l.view.event(e)
		case <-tick.C:
			if was = l.changes(was); was.Opens == 0 && was.OpenFailures > 0 {
				return was.LastError
			}
			l.modbusErrors(failures)
			_ = l.view.out.Flush()
		case <-ctx.Done():
			return nil
		}
	}
}

// changes shows what has become of the port since it was so, and returns how it
// is now.
func (l *listener) changes(was serial.Stats) serial.Stats {
	now := l.line.Stats()
	if was.Up && (!now.Up || now.Opens != was.Opens) && now.LastError != nil {
		l.view.state(time.Now(), "lost: "+now.LastError.Error())
	}
	if now.Opens != was.Opens {
		l.view.state(time.Now(), fmt.Sprintf("open: %s, %d baud, %s", now.Path, l.port.Baud, l.port.Mode))
	}
	return now
}

// modbusErrors shows, once, why registers are missing.
func (l *listener) modbusErrors(shown map[string]bool) {
	if l.line.master == nil {
		return
	}
	for _, s := range l.line.master.Stats().Slaves {
		if s.LastError != nil && !shown[s.LastError.Error()] {
			shown[s.LastError.Error()] = true
			l.view.state(time.Now(), s.LastError.Error())
		}
	}
}

// drain shows what is left.
func (l *listener) drain() {
	for {
		select {
		case e := <-l.events:
			l.view.event(e)
		default:
			return
		}
	}
}

func (l *listener) summary() {
	s := l.line.Stats()
	var refused []string
	var sum uint64
	for why, n := range s.FramesRefused {
		sum += n
		refused = append(refused, fmt.Sprintf("%s %d", why, n))
	}
	slices.Sort(refused)
	why := ""
	if sum > 0 {
		why = " (" + strings.Join(refused, ", ") + ")"
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.view.line("")
	l.view.line("frames: %d good, %d refused%s; %d bytes in, %d out, in %s", s.FramesGood, sum, why, l.in, l.out, time.Since(l.began).Round(100*time.Millisecond))
	if counts := countsOf(s.Polls); counts != "" {
		l.view.line("polls: %s", counts)
	}
	if l.line.master != nil {
		l.view.line("modbus requests: %s", shown(countsOf(l.line.master.Stats().Requests)))
	}
	if l.hidden > 0 {
		l.view.line("%d events were not shown, the terminal was too slow", l.hidden)
	}
}

// countsOf lists counters by name.
func countsOf[K ~string](counts map[K]uint64) string {
	var out []string
	for name, n := range counts {
		out = append(out, fmt.Sprintf("%s %d", name, n))
	}
	slices.Sort(out)
	return strings.Join(out, ", ")
}
