package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/adapters/serial/decode"
	"fieldbridge/adapters/serial/frame"
	"fieldbridge/adapters/serial/modbus"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

const docDevices = "[[device]]\nid = \"d\"\n[[device]]\nid = \"e\"\n"

// What the adapters know, the configuration takes, and nothing else.
func TestConfigurationKnowsTheAdapters(t *testing.T) {
	load := func(text string) string {
		_, err := config.Load(writeConfig(t, docConnector+docDevices+"[[serial]]\nname = \"s\"\nport = \"/dev/ttyS0\"\ndevice = \"d\"\n"+text,
			map[string]string{"secret": "doc-secret"}))
		if err == nil {
			return ""
		}
		return err.Error()
	}
	const unknown = "is not a value of this key"
	hint := load("framing = \"?\"\ncheck = \"?\"\ndecode = \"?\"\n")
	for _, c := range []struct {
		key   string
		names []string
		more  int // values that the adapters' list does not have
	}{
		{"framing", frame.Kinds, 0}, {"check", frame.CheckNames(), 1}, {"decode", decode.Kinds, 1},
	} {
		for _, name := range c.names {
			if got := load(fmt.Sprintf("%s = %q\n", c.key, name)); strings.Contains(got, unknown) {
				t.Errorf("%s = %q: %s", c.key, name, got)
			}
		}
		for line := range strings.Lines(hint) {
			if strings.Contains(line, "."+c.key+":") && strings.Count(line, `", "`)+1 != len(c.names)+c.more {
				t.Errorf("%s: the configuration knows %s, the adapters %d", c.key, line, len(c.names))
			}
		}
	}
	for _, fieldType := range []string{"u8", "i24", "f64", "bcd", "hex", "ascii", "decimal"} {
		if got := load(fmt.Sprintf("decode = \"fields\"\nfields = [ { name = \"a\", type = %q } ]\n", fieldType)); got != "" {
			t.Errorf("type = %q: %s", fieldType, got)
		}
	}
}

// What only the adapters find is reported at the key that it is about.
func TestSerialMistakes(t *testing.T) {
	const port = "[[serial]]\nname = \"s\"\nport = \"/dev/ttyS0\"\ndevice = \"d\"\n"
	for _, c := range []struct{ text, want string }{
		{"decode = \"csv\"\ncolumns = []\n", ":16: serial[0].columns: is missing"},
		{"decode = \"csv\"\ncolumns = [\"a\"]\nseparator = \"\\\"\"\n", ":17: serial[0].separator: "},
		{"decode = \"json\"\ndrop_from = true\n", ":16: serial[0].drop_from: "},
		{"decode = \"regex\"\npattern = \"x\"\n", ":16: serial[0].pattern: "},
		{"decode = \"regex\"\npattern = \"(?P<a>x)\"\ntypes = { b = \"text\" }\n", ":17: serial[0].types: "},
		{"decode = \"fields\"\nfields = [\n { name = \"a\", type = \"bcd\" },\n { name = \"b\", type = \"u8\", scale = \"x\" },\n]\n",
			":17: serial[0].fields[0]: \"a\": length of bcd"},
		{"framing = \"fixed\"\nlength = 2\ncheck = \"crc16-modbus\"\n", ":16: serial[0].length: "},
		{"framing = \"length\"\nlength_field = { offset = 5000, size = 1 }\n", ":16: serial[0].length_field: "},
		{"framing = \"fixed\"\nlength = 3\npoll = { send = \"READ\", every = \"1s\" }\n", ":17: serial[0].poll: "},
		{"decode = \"modbus\"\n[[serial.slave]]\naddress = 1\nevery = \"1s\"\nregisters = [\n { name = \"a\", function = 3, address = 0, type = \"bool\" },\n]\n",
			":20: serial[0].slave[0].registers[0].bit: is missing"},
	} {
		path := writeConfig(t, docConnector+docDevices+port+c.text, map[string]string{"secret": "doc-secret"})
		cfg, err := config.Load(path)
		if err != nil {
			t.Errorf("%s: %v", c.text, err)
			continue
		}
		_, err = validate(cfg, slog.New(slog.DiscardHandler))
		var mistakes *config.Errors
		if !errors.As(err, &mistakes) || !strings.Contains(strings.Split(err.Error(), "\n")[0], c.want) {
			t.Errorf("%s: got %v, want %s", c.text, err, c.want)
		}
		if code, _, stderr := cli("check", "--config", path); code != exitUsage || !strings.Contains(stderr, c.want) {
			t.Errorf("check: %d, %s", code, stderr)
		}
	}
}

// modbusSlaves answers as the slaves 1 and 2 with holding registers, until the
// line hangs up.
type modbusSlaves struct {
	mu        sync.Mutex // guards registers
	registers map[byte][]uint16
	refuse    byte // the slave that has no such register; 0: none
}

func (m *modbusSlaves) serve(p *testPTY) {
	buf := make([]byte, 8)
	for {
		if _, err := io.ReadFull(p.master, buf); err != nil {
			return
		}
		check, _ := frame.ParseCheck("crc16-modbus")
		body, ok := check.Strip(buf)
		if !ok {
			continue
		}
		m.mu.Lock()
		at, n := binary.BigEndian.Uint16(body[2:]), binary.BigEndian.Uint16(body[4:])
		answer := append([]byte{}, body...)
		if body[0] == m.refuse {
			answer = []byte{body[0], body[1] | 0x80, byte(modbus.IllegalDataAddress)}
		} else if body[1] == 6 {
			m.registers[body[0]][at] = n
		} else {
			answer = []byte{body[0], body[1], byte(2 * n)}
			for _, w := range m.registers[body[0]][at : at+n] {
				answer = binary.BigEndian.AppendUint16(answer, w)
			}
		}
		m.mu.Unlock()
		_, _ = p.master.Write(check.Append(answer))
	}
}

const twoMeters = `[[serial]]
name = "meters"
port = "/dev/ttyS0"
baud = 115200
decode = "modbus"
[[serial.slave]]
address = 1
device = "d"
every = "50ms"
timeout = "5s"
registers = [ { name = "setpoint", function = 3, address = 0, type = "int16", scale = "0.1" } ]
[[serial.slave]]
address = 2
device = "e"
subtopic = "energy"
every = "50ms"
timeout = "5s"
registers = [ { name = "kWh", function = 3, address = 1 } ]
`

// Two devices share a Modbus line; a downlink writes to its own device's slave.
func TestModbusLine(t *testing.T) {
	cfg := loadDoc(t, docDevices+twoMeters)
	tray := make(inTray, 1000)
	known := false
	slaves := &modbusSlaves{registers: map[byte][]uint16{1: {215, 0}, 2: {0, 4711}}}
	s := cfg.Serials[0]
	s.Stamp = "timestamp"
	l, p := startLine(t, s, lineOptions{to: tray, timeKnown: func() bool { return known }})
	var serving sync.WaitGroup
	serving.Go(func() { slaves.serve(p) })
	defer serving.Wait()
	defer p.hangUp()

	want := map[string]string{"d": `{"setpoint":21.5}`, "e/energy": `{"kWh":4711}`}
	for range 4 {
		r := tray.next(t)
		to := strings.TrimSuffix(string(r.Device)+"/"+string(r.Subtopic), "/")
		if string(r.Payload) != want[to] || r.ContentType != "application/json" || r.Time.IsZero() {
			t.Errorf("%s: %s, %+v", to, r.Payload, r)
		}
	}
	down := bridge.Downlink{Device: "d", Payload: []byte(`{"set":{"setpoint":-3.2}}`)}
	answer, err := l.Deliver(t.Context(), down)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"outcome":"ok","slave":1,"set":{"setpoint":-3.2}}`; string(answer.Payload) != want || answer.ContentType != "application/json" {
		t.Errorf("answered %s, %s; want %s", answer.ContentType, answer.Payload, want)
	}
	eventually(t, "the written value read", func() bool { return string(tray.next(t).Payload) == `{"setpoint":-3.2}` })
	var failed *bridge.DeliveryError
	down.Device = "stranger"
	answer, err = l.Deliver(t.Context(), down)
	if !errors.As(err, &failed) || !failed.Permanent || !strings.Contains(string(answer.Payload), `"outcome":"wrong_payload"`) {
		t.Errorf("a downlink of another device: %+v, %v", answer, err)
	}
	st := l.master.Stats()
	if st.Requests[modbus.OK] < 5 || st.Requests[modbus.Timeout] != 0 || l.Stats().LastFrame.IsZero() {
		t.Errorf("stats %+v, %+v", st, l.Stats())
	}
}

// refusing is an Accepter that takes nothing.
type refusing struct{}

func (refusing) Submit(context.Context, bridge.Reading) error { return bridge.ErrUnknownDevice }

func TestModbusReadingsThatAreNotTaken(t *testing.T) {
	cfg := loadDoc(t, docDevices+twoMeters)
	slaves := &modbusSlaves{registers: map[byte][]uint16{1: {215, 0}, 2: {0, 4711}}}
	l, p := startLine(t, cfg.Serials[0], lineOptions{to: refusing{}})
	var serving sync.WaitGroup
	serving.Go(func() { slaves.serve(p) })
	defer serving.Wait()
	defer p.hangUp()
	eventually(t, "dropped readings", func() bool { return l.Stats().Dropped >= 2 })
}

// A Modbus line in the gateway: its figures are in metrics and status.
func TestModbusInTheGateway(t *testing.T) {
	p := openDeafPTY(t)
	text := strings.Replace(twoMeters, "/dev/ttyS0", p.Path, 1) + "[[serial]]\nname = \"asked\"\nport = \"/dev/none\"\ndevice = \"d\"\npoll = { send = \"R\", every = \"1s\" }\n"
	slaves := &modbusSlaves{registers: map[byte][]uint16{1: {215, 0}, 2: {0, 4711}}}
	var serving sync.WaitGroup
	serving.Go(func() { slaves.serve(p) })
	defer serving.Wait()
	defer p.hangUp()
	g := startGateway(t, docConnector+docDevices+text, map[string]string{"secret": "doc-secret"})
	defer g.stop()
	eventually(t, "good polls", func() bool {
		st := g.gw.now().ports["meters"].master.Stats()
		return st.Slaves[0].Polls > 1 && st.Slaves[1].Polls > 1
	})
	families, err := g.gw.metrics.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			key := strings.TrimPrefix(f.GetName(), metricsPrefix+"_")
			for _, l := range m.GetLabel() {
				key += " " + l.GetValue()
			}
			found[key] = m.GetCounter().GetValue()
		}
	}
	for key, least := range map[string]float64{
		"modbus_requests_total ok meters": 4, "modbus_requests_total timeout meters": 0, "modbus_polls_total complete meters": 4,
		"serial_polls_total timeout asked": 0, "serial_polls_total answered asked": 0, "serial_frames_total good meters": 0,
	} {
		if got, ok := found[key]; !ok || got < least {
			t.Errorf("%s is %v, %v; want at least %v", key, got, ok, least)
		}
	}
	d := g.gw.now().states.port(g.gw.now().cfg.Serials[0])
	if d.Path != p.Path || d.Modbus == nil || len(d.Modbus.Slaves) != 2 || d.Modbus.Slaves[1].Device != "e" || d.Modbus.Requests["ok"] < 4 {
		t.Errorf("status: %+v", d)
	}
	if out := g.status(); !strings.Contains(out, "slave 2 (e) answers") {
		t.Errorf("status: %s", out)
	}
}

func TestPortName(t *testing.T) {
	s := config.Serial{USB: &config.USB{VID: "0403", PID: "6001", Serial: "A5", Interface: "00"}}
	if got, want := portName(s), "usb vid 0403, pid 6001, serial A5, interface 00"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	_, err := newLine(config.Serial{Name: "s", USB: s.USB, Framing: "line", Delimiter: []byte("\n"), Baud: 9600, Mode: "8N1", MaxFrame: 99, Decode: "text", Device: "d"},
		lineOptions{to: nobody{}})
	if err != nil {
		t.Error(err)
	}
}

// A reload that only moves a port within the file does not open it anew.
func TestPortThatMovesInTheFile(t *testing.T) {
	const text = "[[serial]]\nname = \"f\"\nport = \"/dev/ttyS1\"\ndevice = \"d\"\ndecode = \"fields\"\nfields = [ { name = \"a\", type = \"u8\" } ]\npoll = { send = \"x\", every = \"1s\" }\n"
	was, is := newLayout(loadDoc(t, docDevices+twoMeters+text)), newLayout(loadDoc(t, "# moved\n"+docDevices+text+twoMeters))
	if p := diff(was, is); len(p.closePorts)+len(p.openPorts) > 0 {
		t.Errorf("ports closed %v, opened %v", p.closePorts, p.openPorts)
	}
	is = newLayout(loadDoc(t, docDevices+strings.Replace(text, "1s", "2s", 1)+twoMeters))
	if p := diff(was, is); len(p.openPorts) != 1 || p.openPorts[0] != "f" {
		t.Errorf("ports closed %v, opened %v", p.closePorts, p.openPorts)
	}
}

func TestLeaves(t *testing.T) {
	a, b, c := errors.New("a"), errors.New("b"), errors.New("c")
	var got []string
	for _, err := range leaves(errors.Join(errors.Join(a, b), c)) {
		got = append(got, err.Error())
	}
	if diff := cmp.Diff([]string{"a", "b", "c"}, got); diff != "" {
		t.Error(diff)
	}
}

// listening starts listen on a port of this configuration.
func listening(t *testing.T, text string, more ...string) *runningCommand {
	t.Helper()
	path := writeConfig(t, "[http]\nlisten = \"127.0.0.1:0\"\n"+docConnector+docDevices+text, map[string]string{"secret": "doc-secret"})
	return startCLI(t, append([]string{"listen", "--config", path, "--port", "s"}, more...)...)
}

func TestListen(t *testing.T) {
	p := openPTY(t)
	file := filepath.Join(t.TempDir(), "record.jsonl")
	port := func(name string) string {
		return fmt.Sprintf("[[serial]]\nname = \"s\"\nport = %q\ndecode = \"json\"\ndevice_from = \"id\"\nsubtopic = \"hall\"\n", name)
	}
	c := listening(t, port(p.Path), "--record", file)
	c.says(t, "open: "+p.Path)
	p.write("{\"id\":\"d\",\"T\":21.50}\n")
	c.says(t, "d/hall")
	p.write("\x1b[2J\x07\xff\n")
	c.says(t, "1b 5b 32 4a 07 ff")
	p.write("{\"id\":\"e\",\"T\":\"\\u001b\\u009b\u202e\"}\n")
	c.says(t, "e/hall")
	if code := c.stop(); code != 0 {
		t.Fatalf("ended with %d: %s", code, &c.stderr)
	}
	out := c.stdout.String()
	for _, want := range []string{
		"frame    {\"id\":\"d\",\"T\":21.50}\n", "reading  d/hall  application/json  {\"id\":\"d\",\"T\":21.50}\n",
		"refused  not_json: ", "|.[2J..|\n", "frames: 2 good, 1 refused (not_json 1); ",
	} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
	wantPlain(t, out)

	// The recording gives the same.
	again := listening(t, port("replay:"+file), "--for", "30s")
	again.says(t, "e/hall")
	again.stop()
	replayed := again.stdout.String()
	for _, want := range []string{"open: " + file, "d/hall", "refused  not_json", "frames: 2 good, 1 refused"} {
		if !strings.Contains(replayed, want) {
			t.Errorf("no %q in the replay\n%s", want, replayed)
		}
	}
	if code, _, stderr := cli("listen", "--config", again.path(t, port(p.Path)), "--port", "s", "--record", file); code != exitFailed || !strings.Contains(stderr, "exists") {
		t.Errorf("an existing recording: %d, %s", code, stderr)
	}
}

// path writes a configuration for listen.
func (c *runningCommand) path(t *testing.T, text string) string {
	t.Helper()
	return writeConfig(t, "[http]\nlisten = \"127.0.0.1:0\"\n"+docConnector+docDevices+text, map[string]string{"secret": "doc-secret"})
}

// wantPlain looks for what upsets a terminal.
func wantPlain(t *testing.T, out string) {
	t.Helper()
	for _, r := range out {
		if r != '\n' && (r < ' ' || r >= 0x7f && r <= 0x9f || r == '\u202e') {
			t.Fatalf("the output has %q:\n%q", r, out)
		}
	}
}

func TestListenEndsAndFails(t *testing.T) {
	p := openPTY(t)
	port := fmt.Sprintf("[[serial]]\nname = \"s\"\nport = %q\ndevice = \"d\"\n", p.Path)
	c := listening(t, port, "--for", "300ms", "--hex")
	<-c.done
	if c.code != 0 || !strings.Contains(c.stdout.String(), "frames: 0 good, 0 refused; 0 bytes in") {
		t.Errorf("ended with %d: %s%s", c.code, &c.stdout, &c.stderr)
	}
	missing := listening(t, "[[serial]]\nname = \"s\"\nport = \"/dev/no-such-port\"\ndevice = \"d\"\n")
	<-missing.done
	if missing.code != exitFailed || !strings.Contains(missing.stderr.String(), "no such file") {
		t.Errorf("a port that is not there: %d, %s", missing.code, &missing.stderr)
	}
	other := listening(t, strings.Replace(port, `"s"`, `"scale"`, 1))
	<-other.done
	if other.code != exitUsage || !strings.Contains(other.stderr.String(), `there are: scale`) {
		t.Errorf("a name that is not there: %d, %s", other.code, &other.stderr)
	}
}

// The daemon that has the port is found out, also by root, whom the kernel would
// let open it again.
func TestListenToThePortOfTheDaemon(t *testing.T) {
	p := openPTY(t)
	port := fmt.Sprintf("[[serial]]\nname = \"s\"\nport = %q\ndevice = \"d\"\n", p.Path)
	g := startGateway(t, docConnector+docDevices+port, map[string]string{"secret": "doc-secret"})
	g.awaitPorts()
	path := writeConfig(t, fmt.Sprintf("[http]\nlisten = %q\n", g.HTTP)+docConnector+docDevices+port, map[string]string{"secret": "doc-secret"})
	code, _, stderr := cli("listen", "--config", path, "--port", "s")
	if code != exitFailed || !strings.Contains(stderr, "systemctl stop fieldbridge") {
		t.Errorf("%d, %s", code, stderr)
	}
}

// listen asks the slaves, and says by name what one of them refuses.
func TestListenToModbus(t *testing.T) {
	p := openDeafPTY(t)
	slaves := &modbusSlaves{registers: map[byte][]uint16{1: {215, 0}, 2: {0, 4711}}}
	var serving sync.WaitGroup
	serving.Go(func() { slaves.serve(p) })
	defer serving.Wait()
	defer p.hangUp()
	text := strings.NewReplacer("/dev/ttyS0", p.Path, `name = "meters"`, `name = "s"`).Replace(twoMeters) +
		"[[serial.slave]]\naddress = 3\ndevice = \"d\"\nevery = \"1h\"\ntimeout = \"50ms\"\nretries = 0\nregisters = [ { name = \"x\", function = 3, address = 0 } ]\n"
	slaves.refuse = 3
	c := listening(t, text, "--hex")
	c.says(t, "e/energy  application/json  {\"kWh\":4711}")
	c.says(t, "illegal data address")
	if code := c.stop(); code != 0 || !strings.Contains(c.stdout.String(), "modbus requests: exception_illegal_data_address 1, ok ") {
		t.Errorf("%d: %s%s", code, &c.stdout, &c.stderr)
	}
}

func TestListenInColour(t *testing.T) {
	var plain, coloured logBuffer
	show := func(to io.Writer, colour bool) {
		v := newView(to, false, colour)
		v.state(time.Unix(0, 0), "open")
		_ = v.out.Flush()
	}
	show(&plain, false)
	show(&coloured, true)
	if strings.Contains(plain.String(), "\x1b") || !strings.Contains(coloured.String(), "\x1b[33mport    \x1b[0m open\n") {
		t.Errorf("%q, %q", plain.String(), coloured.String())
	}
}

// FuzzView: whatever a sensor sends, what is shown upsets no terminal.
func FuzzView(f *testing.F) {
	for _, s := range []string{"", "21.5\r\n", "\x1b[2J", "\xff\x00", "\u202e", "\u009b31m", strings.Repeat("ä", 600)} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, s := range []string{plainOrHex(b), hexOf(b)} {
			wantPlain(t, s)
			if strings.Contains(s, "\n") || s == "" {
				t.Fatalf("%q", s)
			}
		}
	})
}
