package modbus

import (
	"bufio"
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// need fails the test where CI=true and skips it elsewhere.
func need(t *testing.T, what string, err error) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s: %v: install the packages gcc, libc6-dev and libmodbus-dev", what, err)
	}
	t.Skipf("%s: %v: install the packages gcc, libc6-dev and libmodbus-dev to run this test", what, err)
}

// libmodbusSlave starts a slave made of libmodbus (testdata/slave.c) on a
// pseudo-terminal and returns the line to it.
func libmodbusSlave(t *testing.T, address string) *wire {
	t.Helper()
	cc, err := exec.LookPath("gcc")
	if err != nil {
		need(t, "C compiler", err)
	}
	program := filepath.Join(t.TempDir(), "slave")
	out, err := exec.Command(cc, "-Wall", "-I/usr/include/modbus", "-o", program, "testdata/slave.c", "-lmodbus").CombinedOutput()
	if err != nil {
		if bytes.Contains(out, []byte("modbus.h")) || bytes.Contains(out, []byte("lmodbus")) {
			need(t, "libmodbus", err)
		}
		t.Fatalf("gcc: %v\n%s", err, out)
	}

	master, slave, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = slave.Close() })
	// Fd, which pty.Open calls, makes the master blocking for good: use a copy.
	fd, err := unix.Dup(int(master.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	_ = master.Close()
	if err := unix.SetNonblock(fd, true); err != nil {
		t.Fatal(err)
	}
	line := newWire(t, os.NewFile(uintptr(fd), "master"))

	cmd := exec.Command(program, slave.Name(), address)
	cmd.Stderr = os.Stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if word, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || word != "ready\n" {
		t.Fatalf("the slave said %q: %v", word, err)
	}
	return line
}

// TestLibmodbus polls and writes to a slave that is not ours. It is alone on the
// line: libmodbus takes what follows a request to another slave for that one's
// answer, and so loses its own next request if the other is away.
func TestLibmodbus(t *testing.T) {
	line := libmodbusSlave(t, "17")
	polls := make(chan Poll, 100)
	m, err := New(Options{Line: line, Baud: 115200, Emit: func(_ context.Context, p Poll) { polls <- p },
		Slaves: []Slave{
			{Address: 17, Device: "meter", Every: 100 * time.Millisecond, Timeout: 5 * time.Second, MaxGap: 100, Registers: []Register{
				{Name: "volts", Function: 4, Address: 0, Scale: "0.1"},
				{Name: "degrees", Function: 4, Address: 1, Type: Int16},
				{Name: "int32", Function: 4, Address: 2, Type: Int32},
				{Name: "int64", Function: 4, Address: 4, Type: Int64},
				{Name: "float", Function: 4, Address: 8, Type: Float32, Order: LittleOrder},
				{Name: "word", Function: 4, Address: 10, Type: String, Length: 2},
				{Name: "coil3", Function: 1, Address: 3},
				{Name: "coil4", Function: 1, Address: 4},
				{Name: "coil10", Function: 1, Address: 10},
				{Name: "input0", Function: 2, Address: 0},
				{Name: "input9", Function: 2, Address: 9},
				{Name: "setpoint", Function: 3, Address: 0, Type: Int16, Scale: "0.1"},
				{Name: "total", Function: 3, Address: 4, Type: Uint64},
				{Name: "ratio", Function: 3, Address: 8, Type: Float64, Order: LittleOrder},
				{Name: "beyond", Function: 3, Address: 70},
			}},
		}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Run(ctx)
	}()
	defer func() {
		cancel()
		<-done
	}()
	next := func() string {
		t.Helper()
		select {
		case p := <-polls:
			if len(p.Missing) != 1 || p.Missing[0] != "beyond" {
				t.Errorf("missing %q: %v", p.Missing, p.Err)
			}
			return string(p.Payload)
		case <-time.After(30 * time.Second):
			t.Fatalf("no poll came: %+v", m.Stats())
			return ""
		}
	}
	const inputs = `{"volts":230.5,"degrees":-5,"int32":-123456789,"int64":-1234567890123456789,"float":230.1,"word":"OK",` +
		`"coil3":true,"coil4":false,"coil10":true,"input0":true,"input9":true,`
	if got, want := next(), inputs+`"setpoint":0,"total":0,"ratio":0}`; got != want {
		t.Errorf("first poll\ngot  %s\nwant %s", got, want)
	}

	for _, v := range []struct{ payload, response string }{
		{`{"set":{"setpoint":-21.5,"total":18446744073709551615,"ratio":-1.5,"coil4":true}}`,
			`{"outcome":"ok","slave":17,"set":{"setpoint":-21.5,"total":18446744073709551615,"ratio":-1.5,"coil4":true}}`},
		{`{"function":15,"address":20,"values":[true,false,true,true,false,false,true,true,true,false]}`,
			`{"outcome":"ok","slave":17,"function":15,"address":20,"values":[true,false,true,true,false,false,true,true,true,false]}`},
		{`{"function":1,"address":19,"count":11}`,
			`{"outcome":"ok","slave":17,"function":1,"address":19,"values":[false,true,false,true,true,false,false,true,true,true,false]}`},
		{`{"function":16,"address":30,"values":[258,772]}`, `{"outcome":"ok","slave":17,"function":16,"address":30,"values":[258,772]}`},
		{`{"function":3,"address":30,"count":2}`, `{"outcome":"ok","slave":17,"function":3,"address":30,"values":[258,772]}`},
	} {
		got, err := m.Write(ctx, "meter", []byte(v.payload))
		if err != nil || string(got) != v.response {
			t.Errorf("%s:\ngot  %s (%v)\nwant %s", v.payload, got, err, v.response)
		}
	}
	if got, err := m.Write(ctx, "meter", []byte(`{"function":6,"address":64,"value":1}`)); err == nil ||
		!bytes.Contains(got, []byte(`"exception_illegal_data_address"`)) {
		t.Errorf("a write beyond the slave's registers gave %s, %v", got, err)
	}

	for len(polls) > 0 { // those from before the writes
		next()
	}
	next() // it may have begun before
	want := `{"volts":230.5,"degrees":-5,"int32":-123456789,"int64":-1234567890123456789,"float":230.1,"word":"OK",` +
		`"coil3":true,"coil4":true,"coil10":true,"input0":true,"input9":true,"setpoint":-21.5,"total":18446744073709551615,"ratio":-1.5}`
	if got := next(); got != want {
		t.Errorf("last poll\ngot  %s\nwant %s", got, want)
	}
	stats := m.Stats()
	if stats.Requests[Timeout] != 0 || stats.Requests[BadCheck] != 0 || stats.Slaves[0].Requests != 6 {
		t.Errorf("stats are %+v", stats)
	}
}
