package main

import (
	"context"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"fieldbridge/bridge/config"
)

func newRunCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGINT or SIGTERM: then no reading is taken any more (HTTP
clients get 503), those that are on their way are given a few seconds, and it
stops. A second signal stops it at once.

SIGHUP has it read its configuration anew, with the keys and secrets that it
names: what has changed is stopped and started, everything else goes on. If
there is a mistake, nothing changes, and the log says what it is.`,
		Example: `  fieldbridge run --config /etc/fieldbridge/fieldbridge.toml
  systemctl reload fieldbridge`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			// From the first moment: it would end the process otherwise.
			hups := make(chan os.Signal, 1)
			signal.Notify(hups, syscall.SIGHUP)
			defer signal.Stop(hups)
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			limitMemory(cfg)
			log, set := newChangingLogger(c.ErrOrStderr(), cfg.Log)
			g, err := newGateway(cfg, log)
			if err != nil {
				return err
			}
			g.reset = func(cfg *config.Config) {
				set(cfg.Log)
				limitMemory(cfg)
			}
			v, commit := buildVersion()
			log.Info("fieldbridge starts", "version", v, "commit", commit, "config", path)
			return g.runWithReloads(c.Context(), hups)
		},
	}
	configFlag(c, &path)
	return c
}

// runWithReloads is run with a reload for each signal; those that come during a
// reload are one.
func (g *gateway) runWithReloads(ctx context.Context, signals <-chan os.Signal) error {
	ctx, cancel := context.WithCancel(ctx)
	var forward sync.WaitGroup
	defer forward.Wait()
	defer cancel()
	forward.Go(func() {
		for {
			select {
			case <-signals:
				_ = g.requestReload(ctx) // reload says what was wrong
			case <-ctx.Done():
				return
			}
		}
	})
	return g.run(ctx)
}
