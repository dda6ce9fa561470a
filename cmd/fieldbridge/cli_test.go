package main

import (
	"bytes"
	"context"
	"net"
	"runtime"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// cli executes a command line that ends by itself.
func cli(args ...string) (code int, stdout, stderr string) {
	var out, errs bytes.Buffer
	code = run(context.Background(), args, &out, &errs)
	return code, out.String(), errs.String()
}

// runningCommand is a command line that ends when it is told to.
type runningCommand struct {
	stdout, stderr logBuffer
	cancel         context.CancelFunc
	done           chan struct{}
	code           int
}

func startCLI(t *testing.T, args ...string) *runningCommand {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	c := &runningCommand{cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.code = run(ctx, args, &c.stdout, &c.stderr)
	}()
	t.Cleanup(func() {
		cancel()
		<-c.done
	})
	return c
}

// says waits for text and returns stdout up to then.
func (c *runningCommand) says(t *testing.T, text string) string {
	t.Helper()
	eventually(t, "output "+text, func() bool {
		select {
		case <-c.done:
			t.Fatalf("ended with %d instead of saying %q:\n%s%s", c.code, text, &c.stdout, &c.stderr)
		default:
		}
		return strings.Contains(c.stdout.String()+c.stderr.String(), text)
	})
	return c.stdout.String()
}

// stop ends the command as SIGTERM does and returns its exit code.
func (c *runningCommand) stop() int {
	c.cancel()
	<-c.done
	return c.code
}

func TestCommandLines(t *testing.T) {
	good := writeConfig(t, secretConfig("127.0.0.1:1"), secretFiles())
	for _, c := range []struct {
		name           string
		args           string
		code           int
		stdout, stderr string // parts of them
	}{
		{name: "nothing", args: "", stdout: "Available Commands:"},
		{name: "help", args: "--help", stdout: "fieldbridge demo"},
		{name: "help command", args: "help keys new", stdout: "--device"},
		{name: "keys alone", args: "keys", stdout: "fieldbridge keys [command]"},
		{name: "unknown command", args: "frobnicate", code: 2, stderr: `unknown command or argument "frobnicate" for fieldbridge` + "\nsee fieldbridge --help"},
		{name: "unknown sub command", args: "keys old", code: 2, stderr: `unknown command or argument "old" for fieldbridge keys`},
		{name: "argument too many", args: "version now", code: 2, stderr: `unknown command or argument "now"`},
		{name: "unknown flag", args: "run --frob", code: 2, stderr: "unknown flag: --frob\nsee fieldbridge run --help"},
		{name: "flag without value", args: "run --config", code: 2, stderr: "--config"},
		{name: "flag of a wrong type", args: "demo --for soon", code: 2, stderr: "--for"},
		{name: "demo too short", args: "demo --for 10ms", code: 2, stderr: "--for: 10ms is too short, give at least 1s"},
		{name: "demo negative", args: "demo --for -2s", code: 2, stderr: "too short"},
		{name: "keys new without device", args: "keys new", code: 2, stderr: `required flag(s) "device" not set`},
		{name: "token without device", args: "token", code: 2, stderr: `required flag(s) "device" not set`},
		{name: "token of nobody", args: "token --config " + good + " --device nobody", code: 2, stderr: `--device: no device "nobody" with device credentials in ` + good},
		{name: "token of a device with a secret", args: "token --config " + good + " --device app", code: 2, stderr: `no device "app" with device credentials`},
		{name: "run without file", args: "run --config /nonexistent.toml", code: 2, stderr: "/nonexistent.toml"},
		{name: "status without file", args: "status --config /nonexistent.toml", code: 2, stderr: "/nonexistent.toml"},
		{name: "status help", args: "status --help", stdout: "fieldbridge status --json | jq"},
		{name: "status of a bad address", args: "status --address nowhere", code: 2, stderr: `"nowhere" is not host:port`},
		{name: "status of any port", args: "status --address 127.0.0.1:0", code: 2, stderr: "where the daemon listens is not known"},
		{name: "status of nobody", args: "status --address 127.0.0.1:1", code: 1, stderr: "no daemon answers at 127.0.0.1:1: connect: connection refused\nis it running"},
		{name: "check without file", args: "check --config /nonexistent.toml", code: 2, stderr: "/nonexistent.toml"},
		{name: "broker for nobody", args: "broker", code: 2, stderr: "nobody could connect: give --config, --device or --connector"},
		{name: "broker half TLS", args: "broker --cert x.pem --connector a=b", code: 2, stderr: "[cert key]"},
		{name: "broker without the certificate", args: "broker --connector a=" + good + " --cert /nonexistent --key /nonexistent", code: 2, stderr: "--cert, --key"},
		{name: "broker without key file", args: "broker --device a=/nonexistent", code: 2, stderr: "--device a: open /nonexistent"},
		{name: "broker with something else as key", args: "broker --device a=" + good, code: 2, stderr: "--device a: " + good},
		{name: "broker with a bad id", args: "broker --device a+b=/nonexistent", code: 2, stderr: "--device: invalid"},
		{name: "broker without secret file", args: "broker --connector a=/nonexistent", code: 2, stderr: "--connector a: open /nonexistent"},
		{name: "broker without equals", args: "broker --device a", code: 2, stderr: "a must be formatted as key=value"},
		{name: "broker on a bad address", args: "broker --config " + good + " --listen nowhere", code: 2, stderr: "--listen: "},
		{name: "bash completion", args: "completion bash", stdout: "__start_fieldbridge"},
		{name: "zsh completion", args: "completion zsh", stdout: "#compdef fieldbridge"},
		{name: "fish completion", args: "completion fish", stdout: "complete -c fieldbridge"},
		{name: "powershell completion", args: "completion powershell", stdout: "Register-ArgumentCompleter"},
		{name: "completion of algorithms", args: "__complete keys new --alg ", stdout: "ES256\nRS256\n"},
		{name: "completion of configuration files", args: "__complete run --config ", stdout: "toml\n"},
		{name: "version", args: "version", stdout: runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH},
	} {
		t.Run(c.name, func(t *testing.T) {
			args := strings.Split(c.args, " ")
			if c.args == "" {
				args = []string{}
			}
			code, stdout, stderr := cli(args...)
			if code != c.code {
				t.Errorf("exit code %d, want %d", code, c.code)
			}
			if !strings.Contains(stdout, c.stdout) {
				t.Errorf("stdout is %q, want %q in it", stdout, c.stdout)
			}
			if !strings.Contains(stderr, c.stderr) {
				t.Errorf("stderr is %q, want %q in it", stderr, c.stderr)
			}
			if code != 0 && (stdout != "" || stderr == "") {
				t.Errorf("a failure says why on stderr only; stdout %q, stderr %q", stdout, stderr)
			}
			checkNoSecrets(t, stdout+stderr, secretFiles())
		})
	}
}

func TestHelpHasExamples(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		if c.Name() == "help" || c.Name() == "completion" {
			return // cobra's own
		}
		path := strings.Fields(c.CommandPath())
		code, help, stderr := cli(append(path[1:], "--help")...)
		if code != 0 || stderr != "" {
			t.Errorf("%s --help: exit code %d, stderr %q", c.CommandPath(), code, stderr)
		}
		if _, examples, ok := strings.Cut(help, "Examples:\n"); !ok || !strings.Contains(examples, "fieldbridge "+strings.Join(path[1:], " ")) {
			t.Errorf("%s --help has no example of itself:\n%s", c.CommandPath(), help)
		}
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	walk(newRoot())
}

func TestConfigComesFromTheEnvironment(t *testing.T) {
	path := writeConfig(t, secretConfig("127.0.0.1:1"), secretFiles())
	t.Setenv("FIELDBRIDGE_CONFIG", path)
	code, stdout, stderr := cli("check")
	if code != 0 || !strings.HasPrefix(stdout, path+": no mistakes") {
		t.Errorf("exit code %d, stdout %q, stderr %q", code, stdout, stderr)
	}
	if code, _, stderr = cli("check", "--config", "/nonexistent.toml"); code != 2 || !strings.Contains(stderr, "/nonexistent.toml") {
		t.Errorf("--config does not win over the environment: exit code %d, stderr %q", code, stderr)
	}
}

func TestRunStopsInOrder(t *testing.T) {
	c := startCLI(t, "run", "--config", writeConfig(t,
		"state_dir = \"state\"\nlog = { format = \"json\" }\n[http]\nlisten = \"127.0.0.1:0\"\n"+secretConfig("127.0.0.1:1"), secretFiles()))
	c.says(t, `"msg":"ready"`)
	if code := c.stop(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	log := c.stderr.String()
	if !strings.Contains(log, `"msg":"fieldbridge starts"`) || !strings.Contains(log, `"msg":"stopped"`) {
		t.Errorf("the log does not tell of start and end:\n%s", log)
	}
	if out := c.stdout.String(); out != "" {
		t.Errorf("stdout has %q", out)
	}
	checkNoSecrets(t, log, secretFiles())
}

func TestRunFailsOnATakenPort(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	path := writeConfig(t, "state_dir = \"state\"\n[http]\nlisten = \""+taken.Addr().String()+"\"\n"+secretConfig("127.0.0.1:1"), secretFiles())
	code, _, stderr := cli("run", "--config", path)
	if code != 1 || !strings.Contains(stderr, "http: ") || !strings.Contains(stderr, taken.Addr().String()) {
		t.Errorf("exit code %d, stderr %q", code, stderr)
	}
}

// secretConfig is a small configuration without mistakes; its files are those of
// secretFiles.
func secretConfig(broker string) string {
	return `
[[connector]]
name = "yard"
broker = "mqtt://` + broker + `"
auth = "uplink-secret"
id = "yard-id"
secret_file = "yard.secret"

[[device]]
id = "app"
`
}

func secretFiles() map[string]string {
	return map[string]string{"yard.secret": "s3cr3t-of-the-yard\n"}
}
