package main

import (
	"bufio"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sync/errgroup"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
	"fieldbridge/bridge/token"
)

// The demo's cast.
const (
	demoScale     = "demo-scale" // on the serial port, signs a JWT
	demoApp       = "demo-app"   // posts over HTTP, shares the connector's secret
	demoConnector = "demo-connector"
)

// demoParts are the things at the gateway's ends.
type demoParts struct {
	dir        string
	configFile string
	brokerAddr string
	httpAddr   string
	broker     *devbroker.Broker
	readings   *devbroker.Subscription
	uplinks    chan devbroker.Message
	sensor     *demoSensor
	hookSrv    *http.Server
	hookListen net.Listener
	hooks      chan demoHook
}

// demoHook is one call of the webhook.
type demoHook struct {
	contentType, device, subtopic, id, body string
}

// newDemoParts sets everything up and writes the gateway's configuration into a
// new temporary directory. Call close at the end, also after an error of run.
func newDemoParts() (p *demoParts, err error) {
	p = &demoParts{
		// Deep enough that nobody waits for the printer.
		uplinks: make(chan devbroker.Message, 64),
		hooks:   make(chan demoHook, 64),
	}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.dir, err = os.MkdirTemp("", "fieldbridge-demo-"); err != nil {
		return p, err
	}
	key, err := token.Generate("ES256")
	if err != nil {
		return p, err
	}
	secret := rand.Text()
	p.broker, err = devbroker.New(devbroker.Options{
		Devices:    map[bridge.DeviceID]crypto.PublicKey{demoScale: key.Public()},
		Connectors: map[string]bridge.Secret{demoConnector: bridge.NewSecret(secret)},
	})
	if err != nil {
		return p, err
	}
	p.readings = p.broker.Subscribe()
	addr, err := p.broker.Listen("127.0.0.1:0", nil)
	if err != nil {
		return p, err
	}
	p.brokerAddr = addr.String()
	if p.sensor, err = newDemoSensor(); err != nil {
		return p, err
	}
	if p.hookListen, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		return p, err
	}
	p.hookSrv = &http.Server{Handler: http.HandlerFunc(p.hook), ReadHeaderTimeout: time.Second}
	return p, p.writeConfig(key, secret)
}

const demoConfig = `# what "fieldbridge demo" runs with
state_dir = "state"
[spool]
min_free = "1MiB"
[http]
listen = "127.0.0.1:0"

[[connector]]
name = "jwt"
broker = "mqtt://%[1]s"
auth = "device-credentials"
key_file = "{device}.pem"

[[connector]]
name = "secret"
broker = "mqtt://%[1]s"
auth = "uplink-secret"
id = "demo-connector"
secret_file = "secret"

[[device]]
id = "demo-scale"
connector = "jwt"
[[device.downlink]]
serial = "scale"

[[device]]
id = "demo-app"
connector = "secret"
[[device.downlink]]
subtopic = "valve/#"
webhook = "http://%[2]s/valve"

[[serial]]
name = "scale"
port = "%[3]s"
decode = "text"
device = "demo-scale"
`

func (p *demoParts) writeConfig(key crypto.Signer, secret string) error {
	private, err := token.EncodePrivateKey(key)
	if err != nil {
		return err
	}
	p.configFile = filepath.Join(p.dir, "fieldbridge.toml")
	text := fmt.Sprintf(demoConfig, p.brokerAddr, p.hookListen.Addr(), p.sensor.path())
	return errors.Join(
		os.WriteFile(filepath.Join(p.dir, demoScale+".pem"), private, 0o600),
		os.WriteFile(filepath.Join(p.dir, "secret"), []byte(secret), 0o600),
		os.WriteFile(p.configFile, []byte(text), 0o600),
	)
}

// run passes on what arrives until ctx is done.
func (p *demoParts) run(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error {
		for {
			m, err := p.readings.Next(ctx)
			if err != nil {
				return nil
			}
			select {
			case p.uplinks <- m:
			case <-ctx.Done():
				return nil
			}
		}
	})
	g.Go(func() error { return p.sensor.read(ctx) })
	g.Go(func() error {
		if err := p.hookSrv.Serve(p.hookListen); !errors.Is(err, http.ErrServerClosed) {
			return err
		}
		return nil
	})
	g.Go(func() error {
		<-ctx.Done()
		p.sensor.close()
		return p.hookSrv.Close()
	})
	return g.Wait()
}

// close releases everything. It may be called after run, or instead of it.
func (p *demoParts) close() {
	if p.broker != nil {
		_ = p.broker.Close()
	}
	if p.sensor != nil {
		p.sensor.close()
	}
	if p.hookListen != nil {
		_ = p.hookListen.Close()
	}
	if p.dir != "" {
		_ = os.RemoveAll(p.dir)
	}
}

// hook is the webhook that downlinks are posted to.
func (p *demoParts) hook(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	p.hooks <- demoHook{
		contentType: r.Header.Get("Content-Type"),
		device:      r.Header.Get("fieldbridge-device"),
		subtopic:    r.Header.Get("fieldbridge-subtopic"),
		id:          r.Header.Get("webhook-id"),
		body:        string(body),
	}
	w.WriteHeader(http.StatusNoContent)
}

// post sends a reading as an app would. It tries again while the gateway says
// that the broker is not there yet, as at the start.
func (p *demoParts) post(ctx context.Context, path, contentType, body string) (answer string, err error) {
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+p.httpAddr+path, strings.NewReader(body))
		if err != nil {
			return "", err
		}
		req.Header.Set("Content-Type", contentType)
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return "", err
		}
		data, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return "", err
		}
		if resp.StatusCode == http.StatusServiceUnavailable && ctx.Err() == nil {
			continue
		}
		var receipt struct{ ID, State, Detail string }
		if err := json.Unmarshal(data, &receipt); err != nil {
			return "", fmt.Errorf("answer to POST: %w", err)
		}
		if resp.StatusCode != http.StatusOK {
			return "", fmt.Errorf("POST was answered with %s: %s", resp.Status, receipt.Detail)
		}
		return fmt.Sprintf("%s, %s, id %s", resp.Status, receipt.State, receipt.ID), nil
	}
}

// demoSensor is a scale on a pseudo-terminal.
type demoSensor struct {
	master, slave *os.File // the slave stays open, so that the line never hangs up
	lines         chan string
}

func newDemoSensor() (*demoSensor, error) {
	master, slave, err := pty.Open()
	if err != nil {
		return nil, fmt.Errorf("no pseudo-terminal for the simulated sensor: %w", err)
	}
	return &demoSensor{master: master, slave: slave, lines: make(chan string, 64)}, nil
}

func (s *demoSensor) path() string { return s.slave.Name() }

func (s *demoSensor) write(text string) error {
	_, err := s.master.WriteString(text)
	return err
}

// read passes on the lines that the gateway writes.
func (s *demoSensor) read(ctx context.Context) error {
	in := bufio.NewScanner(s.master)
	for in.Scan() {
		select {
		case s.lines <- strings.TrimRight(in.Text(), "\r"):
		case <-ctx.Done():
			return nil
		}
	}
	if ctx.Err() != nil {
		return nil
	}
	return in.Err()
}

func (s *demoSensor) close() {
	_ = s.master.Close()
	_ = s.slave.Close()
}
