package main

import (
	"fieldbridge/adapters/serial/modbus"
	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

// portDocument is a serial port in the status.
type portDocument struct {
	Name string `json:"name"`
	// Port is the key port, or "usb" and what the adapter is known by.
	Port string `json:"port"`
	// Path is the device file that was opened the last time.
	Path          string            `json:"path,omitempty"`
	Device        bridge.DeviceID   `json:"device"`
	Up            bool              `json:"up"`
	FramesGood    uint64            `json:"framesGood"`
	FramesBad     uint64            `json:"framesBad"`
	FramesRefused map[string]uint64 `json:"framesRefused"`
	LastRefused   *refusedDocument  `json:"lastRefused,omitempty"`
	Polls         map[string]uint64 `json:"polls,omitempty"`
	Modbus        *modbusDocument   `json:"modbus,omitempty"`
	Dropped       uint64            `json:"dropped"`
	LastFrame     string            `json:"lastFrame,omitempty"`
	// LastError stays when the port is open again.
	LastError string `json:"lastError,omitempty"`
}

// refusedDocument is the last frame that was refused.
type refusedDocument struct {
	Time   string `json:"time"`
	Reason string `json:"reason"`
	Detail string `json:"detail,omitempty"`
	// Hex are the first of its bytes; Bytes is how many it had.
	Hex   string `json:"hex"`
	Bytes int    `json:"bytes"`
}

type modbusDocument struct {
	Requests map[string]uint64 `json:"requests"`
	// Missed polls were left out because the line was taken.
	Missed uint64          `json:"missed"`
	Slaves []slaveDocument `json:"slaves"`
}

type slaveDocument struct {
	Address int             `json:"address"`
	Device  bridge.DeviceID `json:"device"`
	Silent  bool            `json:"silent"`
	// Polls brought every register, Failed ones did not.
	Polls      uint64 `json:"polls"`
	Failed     uint64 `json:"failed"`
	LastAnswer string `json:"lastAnswer,omitempty"`
	// LastError stays after a good poll.
	LastError string `json:"lastError,omitempty"`
}

func (st *states) port(s config.Serial) portDocument {
	l := st.l.ports[s.Name]
	stats := l.Stats()
	d := portDocument{
		Name: s.Name, Port: portName(s), Path: stats.Path, Device: s.Device, Up: stats.Up,
		FramesGood: stats.FramesGood, FramesRefused: map[string]uint64{},
		Dropped: stats.Dropped, LastFrame: ago(stats.LastFrame),
	}
	for why, n := range stats.FramesRefused {
		d.FramesRefused[string(why)] = n
		d.FramesBad += n
	}
	if n := len(stats.LastRefused); n > 0 {
		r := stats.LastRefused[n-1]
		d.LastRefused = &refusedDocument{Time: ago(r.At), Reason: string(r.Reason), Detail: r.Detail, Hex: r.Hex, Bytes: r.Bytes}
	}
	if l.polls {
		d.Polls = named(stats.Polls)
	}
	if l.master != nil {
		d.Modbus = modbusState(l.master.Stats())
	}
	if stats.LastError != nil {
		d.LastError = stats.LastError.Error()
	}
	return d
}

func modbusState(s modbus.Stats) *modbusDocument {
	d := &modbusDocument{Requests: named(s.Requests), Missed: s.Missed, Slaves: make([]slaveDocument, 0, len(s.Slaves))}
	for _, slave := range s.Slaves {
		one := slaveDocument{
			Address: slave.Address, Device: slave.Device, Silent: slave.Silent,
			Polls: slave.Polls, Failed: slave.Failed, LastAnswer: ago(slave.LastAnswer),
		}
		if slave.LastError != nil {
			one.LastError = slave.LastError.Error()
		}
		d.Slaves = append(d.Slaves, one)
	}
	return d
}

// named are counters by the text of their names.
func named[K ~string](counts map[K]uint64) map[string]uint64 {
	out := make(map[string]uint64, len(counts))
	for name, n := range counts {
		out[string(name)] = n
	}
	return out
}
