package config

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"fieldbridge/bridge"
)

func (v *validator) devices() {
	v.deviceIDs = make(map[string]Position)
	v.webhooks = make(map[string]Downlink)
	for i := range v.raw.Devices {
		raw := &v.raw.Devices[i]
		d := Device{Pos: raw.In.pos("")}
		d.ID = v.deviceID(raw)
		if conn := v.deviceConnector(raw); conn != nil {
			d.ConnectorName = conn.Name
			v.deviceKey(raw, conn, &d)
			v.deviceLogin(raw, conn, &d)
		}
		d.Durability = v.cfg.Durability
		if raw.In.gives("durability") {
			d.Durability = raw.Durability
			oneOf(raw.In, "durability", raw.Durability, durabilities)
		}
		for j := range raw.Downlinks {
			d.Downlinks = append(d.Downlinks, v.downlink(&raw.Downlinks[j]))
		}
		v.cfg.Devices = append(v.cfg.Devices, d)
	}
	v.renewals()
	v.clientIDs()
}

func (v *validator) deviceID(raw *rawDevice) bridge.DeviceID {
	in := raw.In
	if raw.ID == "" {
		in.missing("id", "the device's id at the broker")
		return ""
	}
	id, err := bridge.ParseDeviceID(raw.ID)
	if err != nil {
		in.wrong("id", plain(err, bridge.ErrInvalid), "")
		return ""
	}
	if first, ok := v.deviceIDs[raw.ID]; ok {
		in.wrong("id", fmt.Sprintf("the device %q is listed already", raw.ID), "by "+first.String())
		return ""
	}
	v.deviceIDs[raw.ID] = in.pos("")
	return id
}

// plain drops the sentinel before the text: the key before it says as much.
func plain(err, sentinel error) string {
	return strings.TrimPrefix(err.Error(), sentinel.Error()+": ")
}

// deviceConnector returns the connector of a device, or nil after a mistake.
func (v *validator) deviceConnector(raw *rawDevice) *rawConnector {
	in := raw.In
	names := slices.Sorted(maps.Keys(v.connectorNames))
	if raw.Connector == "" {
		switch {
		case !in.ok("connector") || v.incomplete || len(v.raw.Connectors) == 0:
			return nil // that is a mistake already
		case len(v.raw.Connectors) == 1:
			return &v.raw.Connectors[0]
		}
		in.missing("connector", "there are several: one of "+quoted(names))
		return nil
	}
	if i, ok := v.connectorNames[raw.Connector]; ok {
		return &v.raw.Connectors[i]
	}
	v.noSuch(in, "connector", raw.Connector, names)
	return nil
}

// noSuch records a reference to a connector or serial port that is not there.
func (v *validator) noSuch(in place, kind, name string, names []string) {
	if v.incomplete {
		return
	}
	hint := didYouMean(name, names)
	switch {
	case hint == "" && len(names) > 0:
		hint = "one of " + quoted(names)
	case hint == "":
		hint = fmt.Sprintf("add a [[%s]] block with this name", kind)
	}
	in.wrong(kind, fmt.Sprintf("no %s is named %q", words[kind], name), hint)
}

// words are what people call the things that a key refers to.
var words = map[string]string{"connector": "connector", "serial": "serial port"}
