package main

import (
	"encoding/json"
	"fmt"
	"log/slog"

	"github.com/spf13/cobra"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
	"fieldbridge/bridge/token"
)

func newTokenCommand() *cobra.Command {
	var path, device string
	var decode bool
	c := &cobra.Command{
		Use:   "token",
		Short: "Print the JWT that a device would use now",
		Long: `Print the JWT that a device would use now: the password of its CONNECT. It is a
secret until it expires. With --decode print its header and claims instead.`,
		Example: `  fieldbridge token --config fieldbridge.toml --device 0004A30B001C1B03
  fieldbridge token --config fieldbridge.toml --device 0004A30B001C1B03 --decode`,
		Args: noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			cfg, err := config.Load(path)
			if err != nil {
				return err
			}
			keys, err := signers(cfg, slog.New(slog.DiscardHandler))
			if err != nil {
				return err
			}
			signer := keys[bridge.DeviceID(device)]
			if signer == nil {
				return usagef("--device: no device %q with device credentials in %s", device, path)
			}
			t, _, err := signer.Mint()
			if err != nil {
				return err
			}
			if !decode {
				_, err = fmt.Fprintln(c.OutOrStdout(), t.Value.Reveal())
				return err
			}
			header, claims, err := token.Decode(t.Value.Reveal())
			if err != nil {
				return err
			}
			enc := json.NewEncoder(c.OutOrStdout())
			enc.SetIndent("", "  ")
			return enc.Encode(map[string]any{"header": header, "claims": claims})
		},
	}
	configFlag(c, &path)
	c.Flags().StringVar(&device, "device", "", "device id (required)")
	c.Flags().BoolVar(&decode, "decode", false, "print header and claims instead of the token")
	_ = c.MarkFlagRequired("device")
	return c
}
