package modbus

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge"
)

func plant() []Slave {
	return []Slave{
		{Address: 1, Device: "oven", Every: time.Hour, Registers: []Register{
			{Name: "setpoint", Function: 3, Address: 10, Type: Int16, Scale: "0.1"},
			{Name: "limit", Function: 3, Address: 12, Type: Float32, Order: LittleOrder},
			{Name: "total", Function: 3, Address: 20, Type: Uint64},
			{Name: "label", Function: 3, Address: 30, Type: String, Length: 5},
			{Name: "fan", Function: 1, Address: 3},
			{Name: "door", Function: 2, Address: 3},
			{Name: "actual", Function: 4, Address: 10},
			{Name: "alarm", Function: 3, Address: 40, Type: Bool, Bit: bit(2)},
			{Name: "depth", Function: 3, Address: 41, Scale: "-0.5", Offset: "10"},
		}},
		{Address: 2, Device: "pumps", WriteMultiple: true, Registers: []Register{
			{Name: "speed", Function: 3, Address: 0}, {Name: "run", Function: 1, Address: 0}}},
		{Address: 3, Device: "pumps", Registers: []Register{
			{Name: "speed", Function: 3, Address: 0}, {Name: "mode", Function: 3, Address: 1}}},
		{Address: 0, Device: "all", Registers: []Register{{Name: "reset", Function: 1, Address: 0}}},
	}
}

func plantSim(t testing.TB) (*sim, *wire) {
	words := func(n int) map[uint16]uint16 {
		m := map[uint16]uint16{}
		for i := range n {
			m[uint16(i)] = 0
		}
		return m
	}
	bits := func() map[uint16]bool { return map[uint16]bool{0: false, 1: false, 2: false, 3: false} }
	return newSim(t, map[byte]*simSlave{
		1: {holding: words(50), input: words(50), coils: bits(), inputs: bits()},
		2: {holding: words(2), coils: bits()},
		3: {holding: words(2), coils: bits()},
	})
}

func TestWrite(t *testing.T) {
	for _, v := range []struct {
		device   bridge.DeviceID
		payload  string
		requests []string
		response string
	}{
		{"oven", `{"set":{"setpoint":-21.5}}`, []string{"1 6 10 65321"}, `{"outcome":"ok","slave":1,"set":{"setpoint":-21.5}}`},
		{"oven", ` { "set" : { "limit" : 12.5 , "fan" : true } } `, []string{"1 16 12 2", "1 5 3 65280"}, `{"outcome":"ok","slave":1,"set":{"limit":12.5,"fan":true}}`},
		{"oven", `{"set":{"total":18446744073709551615}}`, []string{"1 16 20 4"}, `{"outcome":"ok","slave":1,"set":{"total":18446744073709551615}}`},
		{"oven", `{"set":{"label":"Ä<b"}}`, []string{"1 16 30 3"}, `{"outcome":"ok","slave":1,"set":{"label":"Ä<b"}}`},
		{"oven", `{"set":{"depth":-4.5},"slave":1}`, []string{"1 6 41 29"}, `{"outcome":"ok","slave":1,"set":{"depth":-4.5}}`},
		{"oven", `{"function":6,"address":1,"value":-2}`, []string{"1 6 1 65534"}, `{"outcome":"ok","slave":1,"function":6,"address":1,"values":[65534]}`},
		{"oven", `{"function":16,"address":1,"values":[3,4]}`, []string{"1 16 1 2"}, `{"outcome":"ok","slave":1,"function":16,"address":1,"values":[3,4]}`},
		{"oven", `{"function":5,"address":1,"value":true}`, []string{"1 5 1 65280"}, `{"outcome":"ok","slave":1,"function":5,"address":1,"values":[true]}`},
		{"oven", `{"function":15,"address":1,"values":[1,false]}`, []string{"1 15 1 2"}, `{"outcome":"ok","slave":1,"function":15,"address":1,"values":[true,false]}`},
		{"oven", `{"function":3,"address":1,"count":2}`, []string{"1 3 1 2"}, `{"outcome":"ok","slave":1,"function":3,"address":1,"values":[0,0]}`},
		{"oven", `{"function":2,"address":3,"count":1}`, []string{"1 2 3 1"}, `{"outcome":"ok","slave":1,"function":2,"address":3,"values":[false]}`},
		{"pumps", `{"set":{"speed":7},"slave":2}`, []string{"2 16 0 1"}, `{"outcome":"ok","slave":2,"set":{"speed":7}}`},
		{"pumps", `{"set":{"run":true,"mode":2}}`, []string{"2 15 0 1", "3 6 1 2"}, `{"outcome":"ok","set":{"run":true,"mode":2}}`},
		{"all", `{"set":{"reset":true}}`, []string{"0 5 0 65280"}, `{"outcome":"ok","slave":0,"set":{"reset":true}}`},
	} {
		t.Run(v.payload, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := plantSim(t)
				m := run(t, w, plant()...)
				m.until(time.Second)
				s.requests()
				got, err := m.Write(t.Context(), v.device, []byte(v.payload))
				if err != nil {
					t.Fatal(err)
				}
				if d := cmp.Diff(v.response, string(got)); d != "" {
					t.Errorf("response (-want +got):\n%s", d)
				}
				if d := cmp.Diff(v.requests, s.requests()); d != "" {
					t.Errorf("requests (-want +got):\n%s", d)
				}
			})
		})
	}
}

// TestWriteReadBack: what a downlink sets is what the next poll reads.
func TestWriteReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, w := plantSim(t)
		m := run(t, w, plant()...)
		m.until(time.Second)
		const set = `"setpoint":21.5,"limit":-0.1,"total":9007199254740993,"label":"x y","fan":true`
		if _, err := m.Write(t.Context(), "oven", []byte(`{"set":{`+set+`}}`)); err != nil {
			t.Fatal(err)
		}
		m.until(time.Hour + time.Second)
		got := m.payloads(1)
		if want := `{` + set + `,"door":false,"actual":0,"alarm":false,"depth":10}`; got[len(got)-1] != want {
			t.Errorf("got  %s\nwant %s", got[len(got)-1], want)
		}
	})
}

func TestWrongPayloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := plantSim(t)
		m := run(t, w, plant()...)
		m.until(time.Second)
		s.requests()
		const oven, pumps = "oven", "pumps"
		for _, v := range []struct {
			device  bridge.DeviceID
			payload string
			want    string
		}{
			{oven, ``, "the payload is no JSON object: " + forms},
			{oven, `[1]`, "the payload is no JSON object: " + forms},
			{oven, `{"set":{"fan":true}`, "the payload is not valid JSON: " + forms},
			{oven, `{"set":{"fan":tru}}`, "the payload is not valid JSON: " + forms},
			{oven, `{"set":{"fan":true}} x`, "the payload goes on behind its JSON object"},
			{oven, "{\"set\":{\"\xFF\":true}}", "the payload is not UTF-8: " + forms},
			{oven, `{"set":{}}`, `"set" is empty: name at least one register`},
			{oven, `{"set":3}`, "the payload is no JSON object: " + forms},
			{oven, `{"set":{"fan":true,"fan":false}}`, `"fan" is there twice`},
			{oven, `{"set":{"fan":true},"function":3}`, `"set" and "function" do not go together: ` + forms},
			{oven, `{"sett":{"fan":true}}`, `"sett" is not known: ` + forms},
			{oven, `{"set":{"fann":true}}`, `no register is called "fann"; there are: setpoint, limit, total, label, fan, door, actual, alarm, depth`},
			{oven, `{"set":{"fan":"on"}}`, `"fan": must be true or false (got "on")`},
			{oven, `{"set":{"fan":null}}`, `"fan": must be true or false (got null)`},
			{oven, `{"set":{"door":true}}`, `"door" is read-only: function 2 is for inputs`},
			{oven, `{"set":{"actual":1}}`, `"actual" is read-only: function 4 is for inputs`},
			{oven, `{"set":{"alarm":true}}`, `"alarm" is one bit of a register, which cannot be written alone: map the whole register and write that`},
			{oven, `{"set":{"setpoint":"21"}}`, `"setpoint": must be a number (got "21")`},
			{oven, `{"set":{"setpoint":3276.8}}`, `"setpoint": 3276.8 is out of range for int16: -3276.8 to 3276.7`},
			{oven, `{"set":{"setpoint":21.55}}`, `"setpoint": 21.55 is not a multiple of the scale 0.1 (offset 0)`},
			{oven, `{"set":{"depth":10.5}}`, `"depth": 10.5 is out of range for uint16: -32757.5 to 10`},
			{oven, `{"set":{"total":1.5}}`, `"total": 1.5 is not an integer`},
			{oven, `{"set":{"total":18446744073709551616}}`, `"total": 18446744073709551616 is out of range for uint64: 0 to 18446744073709551615`},
			{oven, `{"set":{"total":-1}}`, `"total": -1 is out of range for uint64: 0 to 18446744073709551615`},
			{oven, `{"set":{"limit":1e39}}`, `"limit": 1e39 is out of range for float32`},
			{oven, `{"set":{"limit":1e999999999}}`, `"limit": 1e999999999: not a decimal number such as 0.1, -5 or 1e-3`},
			{oven, `{"set":{"label":"123456"}}`, `"label": has 6 bytes, the register takes at most 5`},
			{oven, `{"set":{"label":"a\u0000b"}}`, `"label": must not contain NUL, which ends a string`},
			{oven, `{"set":{"label":5}}`, `"label": must be a string (got 5)`},
			{oven, `{"set":{"label":{}}}`, `"label": must be a string (got an object)`},
			{oven, `{"function":6}`, "address is missing"},
			{oven, `{"function":7,"address":1}`, "function must be 1 to 6, 15 or 16: " + forms},
			{oven, `{"address":1,"value":1}`, "function must be 1 to 6, 15 or 16: " + forms},
			{oven, `{"function":6,"address":1}`, "value is missing: function 6 needs it"},
			{oven, `{"function":6,"address":1,"value":1,"count":1}`, "count is not for function 6"},
			{oven, `{"function":6,"address":1,"value":65536}`, "value 0 must be an integer of -32768 to 65535 (got 65536)"},
			{oven, `{"function":6,"address":1,"value":1.5}`, "value 0 must be an integer of -32768 to 65535 (got 1.5)"},
			{oven, `{"function":5,"address":1,"value":2}`, "value 0 must be true or false (got 2)"},
			{oven, `{"function":16,"address":1,"values":[]}`, "function 16 takes 1 to 123 values (got 0)"},
			{oven, `{"function":16,"address":1,"values":3}`, "values must be an array (got 3)"},
			{oven, `{"function":16,"address":65535,"values":[3,4]}`, "address 65535 with 2 values reaches beyond 65535"},
			{oven, `{"function":6,"address":65536,"value":1}`, "address must be an integer of 0 to 65535 (got 65536)"},
			{oven, `{"function":3,"address":1,"count":126}`, "function 3 takes 1 to 125 values (got 126)"},
			{oven, `{"slave":2,"set":{"fan":true}}`, "slave 2 is none of the device's: 1"},
			{oven, `{"slave":0,"function":6,"address":1,"value":1}`, "slave 0 is none of the device's: 1"},
			{oven, `{"slave":"1","set":{"fan":true}}`, `slave must be an integer of 0 to 247 (got "1")`},
			{pumps, `{"set":{"speed":1}}`, `"speed" is a register of more than one slave: say which with "slave"`},
			{pumps, `{"function":6,"address":1,"value":1}`, `the device has several slaves: say which with "slave"`},
			{"all", `{"function":3,"address":1,"count":1}`, "function 3 cannot be broadcast: nobody answers"},
			{"nobody", `{"set":{"speed":1}}`, "no slave of this line belongs to the device"},
			{oven, `{"set":{"fan":true},"x":"` + strings.Repeat("x", maxPayload) + `"}`, "the payload has 65563 bytes, at most 65536 are allowed"},
			// Nothing is written if one of several is wrong.
			{oven, `{"set":{"fan":true,"setpoint":1e6}}`, `"setpoint": 1e6 is out of range for int16: -3276.8 to 3276.7`},
		} {
			got, err := m.Write(t.Context(), v.device, []byte(v.payload))
			var failed *bridge.DeliveryError
			if !errors.As(err, &failed) || !failed.Permanent {
				t.Errorf("%.80s: the error is not permanent: %v", v.payload, err)
				continue
			}
			if want := "modbus downlink: " + v.want; err.Error() != want {
				t.Errorf("%.80s:\ngot  %s\nwant %s", v.payload, err, want)
			}
			var r struct{ Outcome, Error string }
			if json.Unmarshal(got, &r) != nil || r.Outcome != "wrong_payload" || r.Error != v.want {
				t.Errorf("%.80s: the response is %s", v.payload, got)
			}
		}
		if got := s.requests(); len(got) > 0 {
			t.Errorf("written all the same: %q", got)
		}
	})
}

func TestWriteFails(t *testing.T) {
	for _, v := range []struct {
		name      string
		fault     fault
		permanent bool
		requests  int
		outcome   string
	}{
		{"refused", refusing(2), true, 1, "exception_illegal_data_address"},
		{"failed", refusing(4), true, 1, "exception_server_device_failure"},
		{"busy", refusing(6), false, 3, "exception_server_device_busy"},
		{"lost", lost, false, 3, "timeout"},
		{"damaged", damaged, false, 3, "bad_check"},
		{"other echo", otherEcho, false, 3, "wrong_echo"},
	} {
		t.Run(v.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				s, w := plantSim(t)
				m := run(t, w, plant()...)
				m.until(time.Second)
				s.requests()
				s.change(func() { s.slaves[1].always = v.fault })
				got, err := m.Write(t.Context(), "oven", []byte(`{"set":{"setpoint":1,"fan":true}}`))
				var failed *bridge.DeliveryError
				if !errors.As(err, &failed) || failed.Permanent != v.permanent {
					t.Errorf("permanent is not %v: %v", v.permanent, err)
				}
				want := fmt.Sprintf(`{"outcome":%q,"slave":1,"register":"setpoint","error":%q}`, v.outcome, err)
				if string(got) != want {
					t.Errorf("response\ngot  %s\nwant %s", got, want)
				}
				asked := s.requests()
				if len(asked) != v.requests || len(slices.Compact(asked)) != 1 {
					t.Errorf("requests are %q, want %d", asked, v.requests)
				}
			})
		})
	}
	synctest.Test(t, func(t *testing.T) {
		_, w := plantSim(t)
		line := &brokenLine{Line: w, err: errWireGone}
		m := run(t, line, plant()...)
		got, err := m.Write(t.Context(), "oven", []byte(`{"set":{"fan":true}}`))
		var failed *bridge.DeliveryError
		if got != nil || !errors.As(err, &failed) || failed.Permanent || !errors.Is(err, errWireGone) {
			t.Errorf("got %s, %v", got, err)
		}
	})
}

// TestWriteWhilePolling: writes get their turn between the polls of a line that
// is never idle.
func TestWriteWhilePolling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, w := plantSim(t)
		slaves := plant()
		slaves[0].Every = 10 * time.Millisecond
		s.slaves[1].delay = 20 * time.Millisecond
		m := run(t, w, slaves...)
		for i := range 100 {
			value := fmt.Sprintf("%d.5", i)
			before := time.Now()
			if _, err := m.Write(t.Context(), "oven", []byte(`{"set":{"setpoint":`+value+`}}`)); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(before); took > 200*time.Millisecond {
				t.Errorf("write %d took %s", i, took)
			}
			s.change(func() {
				if got := s.slaves[1].holding[10]; got != uint16(10*i+5) {
					t.Fatalf("the slave has %d after write %d", got, i)
				}
			})
		}
	})
}
