package main

import (
	"github.com/spf13/cobra"

	"fieldbridge/bridge/config"
)

func newRunCommand() *cobra.Command {
	var path string
	c := &cobra.Command{
		Use:   "run",
		Short: "Run the gateway",
		Long: `Run the gateway until SIGINT or SIGTERM: then no reading is taken any more, those
that are on their way are given a few seconds, and it stops. A second signal
stops it at once.`,
		Example: "  fieldbridge run --config /etc/fieldbridge/fieldbridge.toml",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			limitMemory(cfg)
			log := newLogger(c.ErrOrStderr(), cfg.Log)
			g, err := newGateway(cfg, log)
			if err != nil {
				return err
			}
			v, commit := buildVersion()
			log.Info("fieldbridge starts", "version", v, "commit", commit, "config", path)
			return g.run(c.Context())
		},
	}
	configFlag(c, &path)
	return c
}
