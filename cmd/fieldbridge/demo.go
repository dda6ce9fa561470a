package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"fieldbridge/bridge/config"
	"fieldbridge/bridge/devbroker"
)

func newDemoCommand() *cobra.Command {
	var limit time.Duration
	c := &cobra.Command{
		Use:   "demo",
		Short: "Show the main job on embedded parts",
		Long: `Show the main job on embedded parts, with no configuration, account or package: a
broker with akenza's rules in this process, a simulated scale on a
pseudo-terminal, an app that posts over HTTP, and a webhook. One device signs a
JWT, the other uses a connector's secret. Everything is removed at the end.`,
		Example: `  fieldbridge demo
  fieldbridge demo --for 10s   # stops by itself; fails if any leg did not work`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			if limit < 0 || (c.Flags().Changed("for") && limit < time.Second) {
				return usagef("--for: %s is too short, give at least 1s", limit)
			}
			return runDemo(c.Context(), c.OutOrStdout(), limit)
		},
	}
	c.Flags().DurationVar(&limit, "for", 0, "stop after this time, with exit code 1 if any leg did not work")
	return c
}

const (
	// demoPace is the pause between two rounds.
	demoPace = 2 * time.Second
	// demoPatience is how long a step may take before its leg has failed.
	demoPatience = 5 * time.Second
)

// The four legs that a demo shows.
const (
	legSerialUp = iota
	legHTTPUp
	legSerialDown
	legWebhookDown
	legs
)

var legNames = [legs]string{"serial up", "HTTP up", "serial down", "webhook down"}

// demo is a gateway with something at each of its ends.
type demo struct {
	parts *demoParts
	print *demoPrinter
	ok    [legs]int
	err   [legs]error
}

// runDemo runs rounds until ctx is done or limit, if above zero, is over.
func runDemo(ctx context.Context, out io.Writer, limit time.Duration) error {
	parts, err := newDemoParts()
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	defer parts.close()
	return parts.demo(ctx, out, limit)
}

// demo runs a gateway between the parts.
func (parts *demoParts) demo(ctx context.Context, out io.Writer, limit time.Duration) error {
	cfg, err := config.Load(parts.configFile)
	if err != nil {
		return err
	}
	g, err := newGateway(cfg, slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: slog.LevelError})))
	if err != nil {
		return fmt.Errorf("demo: %w", err)
	}
	parts.httpAddr = g.now().http.Addr().String()

	d := &demo{parts: parts, print: newDemoPrinter(out)}
	d.print.head(parts)
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error { return g.run(gctx) })
	group.Go(func() error { return parts.run(gctx) })
	group.Go(func() error {
		defer stop()
		d.rounds(gctx, limit)
		return nil
	})
	if err := group.Wait(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("demo: %w", err)
	}
	return d.verdict()
}

// rounds goes through the four legs again and again.
func (d *demo) rounds(ctx context.Context, limit time.Duration) {
	var over <-chan time.Time
	if limit > 0 {
		over = time.After(limit)
	}
	steps := [legs]func(context.Context, int) error{
		legSerialUp: d.serialUp, legHTTPUp: d.httpUp,
		legSerialDown: d.serialDown, legWebhookDown: d.webhookDown,
	}
	for n := 1; ; n++ {
		d.print.round(n)
		for leg, step := range steps {
			sctx, cancel := context.WithTimeout(ctx, demoPatience)
			err := step(sctx, n)
			cancel()
			if ctx.Err() != nil {
				return
			}
			if err != nil {
				d.err[leg] = err
				d.print.failed(legNames[leg], err)
				continue
			}
			d.ok[leg]++
		}
		pause := time.After(demoPace)
		for waiting := true; waiting; {
			select {
			case m := <-d.parts.uplinks: // somebody else's reading: show it, too
				d.print.visitor(m)
			case <-pause:
				waiting = false
			case <-over:
				return
			case <-ctx.Done():
				return
			}
		}
	}
}

// verdict prints the balance and says whether every leg worked.
func (d *demo) verdict() error {
	d.print.balance(d.ok, d.err)
	var errs []error
	for leg := range legs {
		switch {
		case d.err[leg] != nil:
			errs = append(errs, fmt.Errorf("%s: %w", legNames[leg], d.err[leg]))
		case d.ok[leg] == 0:
			errs = append(errs, fmt.Errorf("%s: did not come to its turn", legNames[leg]))
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("demo failed: %w", errors.Join(errs...))
	}
	return nil
}

func (d *demo) serialUp(ctx context.Context, n int) error {
	line := fmt.Sprintf("ST,GS,+%07.2fkg", 24.31+float64(n%7)*0.07)
	began := time.Now()
	if err := d.parts.sensor.write(line + "\r\n"); err != nil {
		return err
	}
	d.print.sent("serial", true, "scale writes", quote([]byte(line+"\r\n")))
	m, err := d.arrival(ctx, line)
	if err != nil {
		return err
	}
	d.print.arrived("broker got", m, time.Since(began))
	return nil
}

func (d *demo) httpUp(ctx context.Context, n int) error {
	body := fmt.Sprintf(`{"energy":%.1f,"unit":"kWh"}`, 1204.2+float64(n)*0.3)
	path := "/v1/devices/" + demoApp + "/uplink/energy"
	d.print.sent("HTTP", true, "app posts", body)
	began := time.Now()
	answer, err := d.parts.post(ctx, path, "application/json", body)
	if err != nil {
		return err
	}
	took := time.Since(began)
	m, err := d.arrival(ctx, body)
	if err != nil {
		return err
	}
	d.print.arrived("broker got", m, took)
	d.print.line("app hears", answer)
	return nil
}

func (d *demo) serialDown(ctx context.Context, n int) error {
	command := fmt.Sprintf("TARE %d", n)
	err := d.parts.broker.Publish(devbroker.Message{
		Device: demoScale, Subtopic: "command", ContentType: "text/plain", Payload: []byte(command),
	})
	if err != nil {
		return err
	}
	d.print.sent("serial", false, "broker sends", fmt.Sprintf("%s  to %s, topic command", quote([]byte(command)), demoScale))
	for {
		select {
		case got := <-d.parts.sensor.lines:
			if got == command {
				d.print.line("scale reads", quote([]byte(got+"\n")))
				return nil
			}
		case <-ctx.Done():
			return errors.New("the scale did not get the downlink")
		}
	}
}

func (d *demo) webhookDown(ctx context.Context, n int) error {
	payload := fmt.Sprintf(`{"valve":"open","percent":%d}`, 10*(n%10))
	err := d.parts.broker.Publish(devbroker.Message{
		Connector: demoConnector, Device: demoApp, Subtopic: "valve", ContentType: "application/json", Payload: []byte(payload),
	})
	if err != nil {
		return err
	}
	d.print.sent("webhook", false, "broker sends", fmt.Sprintf("%s  to %s, topic valve", payload, demoApp))
	for {
		select {
		case got := <-d.parts.hooks:
			if got.body == payload {
				d.print.hook(got)
				return nil
			}
		case <-ctx.Done():
			return errors.New("the webhook was not called")
		}
	}
}

// arrival waits for the reading with this payload and shows others that come
// before it.
func (d *demo) arrival(ctx context.Context, payload string) (devbroker.Message, error) {
	for {
		select {
		case m := <-d.parts.uplinks:
			if string(m.Payload) == payload {
				return m, nil
			}
			d.print.visitor(m)
		case <-ctx.Done():
			return devbroker.Message{}, errors.New("the broker did not get the reading")
		}
	}
}
