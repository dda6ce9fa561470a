package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"

	"fieldbridge/bridge/config"
)

// Exit codes; people script against them.
const (
	exitDone   = 0
	exitFailed = 1
	exitUsage  = 2 // wrong usage or configuration
)

const defaultConfig = "/etc/fieldbridge/fieldbridge.toml"

// run executes a command line and returns the exit code. Commands that run on
// end in order when ctx is done.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err != nil {
		fmt.Fprintln(stderr, err)
	}
	return exitCode(err)
}

func exitCode(err error) int {
	var mistakes *config.Errors
	var usage usageError
	switch {
	case err == nil:
		return exitDone
	case errors.As(err, &mistakes), errors.As(err, &usage):
		return exitUsage
	default:
		return exitFailed
	}
}

// usageError is a command line that cannot be carried out as it stands.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error {
	return usageError{fmt.Errorf(format, args...)}
}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "fieldbridge",
		Short: "Forwards readings from serial sensors and local apps to an MQTT v5 broker, and downlinks back",
		Example: `  fieldbridge demo
  fieldbridge run --config /etc/fieldbridge/fieldbridge.toml`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          noArgs,
		// cobra checks these as well, but later and with errors of no type.
		PersistentPreRunE: func(c *cobra.Command, _ []string) error {
			err := c.ValidateRequiredFlags()
			if err == nil {
				err = c.ValidateFlagGroups()
			}
			if err != nil {
				return usagef("%w\nsee %s --help", err, c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usagef("%w\nsee %s --help", err, c.CommandPath())
	})
	root.AddCommand(
		newRunCommand(), newDemoCommand(), newCheckCommand(), newKeysCommand(),
		newPortsCommand(), newListenCommand(),
		newTokenCommand(), newSendCommand(), newStatusCommand(), newSpoolCommand(), newBrokerCommand(), newVersionCommand(),
	)
	return root
}

// noArgs refuses positional arguments, and with them unknown commands.
func noArgs(c *cobra.Command, args []string) error {
	if len(args) > 0 {
		return usagef("unknown command or argument %q for %s\nsee %s --help", args[0], c.CommandPath(), c.CommandPath())
	}
	return nil
}

// configFlag adds --config.
func configFlag(c *cobra.Command, path *string) {
	def := os.Getenv("FIELDBRIDGE_CONFIG")
	if def == "" {
		def = defaultConfig
	}
	c.Flags().StringVar(path, "config", def, "configuration file; the default is $FIELDBRIDGE_CONFIG, if set")
	_ = c.MarkFlagFilename("config", "toml")
}
