package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"fieldbridge/bridge"
	"fieldbridge/bridge/token"
)

func newKeysCommand() *cobra.Command {
	keys := &cobra.Command{
		Use:     "keys",
		Short:   "Make the keys that devices sign their tokens with",
		Example: "  fieldbridge keys new --device 0004A30B001C1B03",
		Args:    noArgs,
		RunE:    func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	var device, alg, out string
	create := &cobra.Command{
		Use:   "new",
		Short: "Make a key pair for a device",
		Long: `Make a key pair for a device: DEVICE.pem is the private key and stays on this
machine, readable by its owner only. DEVICE.pub.pem (public key) and
DEVICE.crt.pem (the same key as a self-signed certificate) are for upload; the
broker needs one of them. Existing files are never overwritten.`,
		Example: "  fieldbridge keys new --device 0004A30B001C1B03 --out /etc/fieldbridge/keys",
		Args:    noArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			id, err := bridge.ParseDeviceID(device)
			if err != nil {
				return usagef("--device: %w", err)
			}
			if alg != "ES256" && alg != "RS256" {
				return usagef("--alg: %q is not supported; use ES256 or RS256", alg)
			}
			return newKeys(c, id, alg, out)
		},
	}
	create.Flags().StringVar(&device, "device", "", "device id (required)")
	create.Flags().StringVar(&alg, "alg", "ES256", "signature algorithm: ES256 or RS256; RS256 costs about 25 times the CPU time per token")
	create.Flags().StringVar(&out, "out", ".", "directory for the files; made if missing")
	_ = create.MarkFlagRequired("device")
	_ = create.MarkFlagDirname("out")
	_ = create.RegisterFlagCompletionFunc("alg", cobra.FixedCompletions([]string{"ES256", "RS256"}, cobra.ShellCompDirectiveNoFileComp))
	keys.AddCommand(create)
	return keys
}

func newKeys(c *cobra.Command, id bridge.DeviceID, alg, out string) error {
	key, err := token.Generate(alg)
	if err != nil {
		return err
	}
	private, err := token.EncodePrivateKey(key)
	if err != nil {
		return err
	}
	public, err := token.EncodePublicKey(key.Public())
	if err != nil {
		return err
	}
	cert, err := token.SelfSigned(key, id)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o700); err != nil {
		return fmt.Errorf("make directory: %w", err)
	}
	base := filepath.Join(out, string(id))
	files := []struct {
		name, what string
		data       []byte
		mode       os.FileMode
	}{
		{base + ".pem", "private key, keep it here", private, 0o600},
		{base + ".pub.pem", "public key, upload this", public, 0o644},
		{base + ".crt.pem", "or this: the same key as a certificate", cert, 0o644},
	}
	for _, f := range files {
		if _, err := os.Lstat(f.name); err == nil {
			return fmt.Errorf("%s exists already: move it away first, a private key cannot be made again", f.name)
		}
	}
	for _, f := range files {
		if err := writeNew(f.name, f.data, f.mode); err != nil {
			return err
		}
		fmt.Fprintf(c.OutOrStdout(), "%-40s %s\n", f.name, f.what)
	}
	return nil
}

// writeNew writes a file that must not exist yet, and syncs it: a key that was
// uploaded must not vanish in a power cut.
func writeNew(name string, data []byte, mode os.FileMode) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if serr := f.Sync(); err == nil {
		err = serr
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	return err
}
