package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"fieldbridge/bridge"
	"fieldbridge/bridge/config"
)

// planConfig is the configuration that TestDiff changes.
func planConfig() *config.Config {
	return &config.Config{
		Gateway: "gw", Durability: config.DurabilityAuto,
		HTTP: config.HTTP{Listen: "127.0.0.1:8080", MaxBody: 100},
		Connectors: []config.Connector{
			{Name: "plant", Address: "b:1883", Auth: config.AuthDeviceCredentials, PerDevice: true, MaxPayload: 10},
			{Name: "yard", Address: "b:1883", Auth: config.AuthUplinkSecret, ID: "yard-id", Secret: bridge.NewSecret("s"), MaxPayload: 10},
		},
		Devices: []config.Device{
			{ID: "p1", ConnectorName: "plant", KeyPEM: bridge.NewSecret("k1"), Durability: config.DurabilityAuto,
				Downlinks: []config.Downlink{{Subtopic: "x", Webhook: "http://h/1"}}},
			{ID: "p2", ConnectorName: "plant", KeyPEM: bridge.NewSecret("k2"), Durability: config.DurabilityAuto},
			{ID: "y1", ConnectorName: "yard", Durability: config.DurabilityAuto, Downlinks: []config.Downlink{{Serial: "scale"}}},
			{ID: "y2", ConnectorName: "yard", Durability: config.DurabilityAuto},
		},
		Serials: []config.Serial{{Name: "scale", Port: "/dev/a", Baud: 9600}, {Name: "other", Port: "/dev/b", Baud: 9600}},
	}
}

func TestDiff(t *testing.T) {
	var (
		p1   = sessionKey{"plant", "p1"}
		p2   = sessionKey{"plant", "p2"}
		yard = sessionKey{connector: "yard"}
	)
	keys := func(ks ...sessionKey) []sessionKey { return ks }
	ids := func(ids ...bridge.DeviceID) []bridge.DeviceID { return ids }
	for name, c := range map[string]struct {
		change func(*config.Config)
		want   plan
	}{
		"nothing": {func(*config.Config) {}, plan{}},
		"positions": {func(c *config.Config) {
			c.HTTP.Pos.Line, c.Connectors[0].Pos.Line, c.Devices[0].Pos.Line = 7, 8, 9
			c.Devices[0].Downlinks[0].Pos.Line, c.Serials[0].Pos.Line = 10, 11
		}, plan{}},
		"log, spool and times": {func(c *config.Config) {
			c.Log.Format, c.Spool.MaxBytes, c.AckTimeout = "json", 1, time.Hour
		}, plan{}},
		"order": {func(c *config.Config) {
			slices.Reverse(c.Devices)
			slices.Reverse(c.Connectors)
			slices.Reverse(c.Serials)
		}, plan{}},
		"gateway": {func(c *config.Config) { c.Gateway = "other" }, plan{
			stop: keys(p1, p2, yard), start: keys(p1, p2, yard), devices: ids("p1", "p2", "y1", "y2"),
		}},
		"key": {func(c *config.Config) { c.Devices[1].KeyPEM = bridge.NewSecret("new") }, plan{
			stop: keys(p2), start: keys(p2), devices: ids("p2"),
		}},
		"same key": {func(c *config.Config) { c.Devices[1].KeyPEM = bridge.NewSecret("k2") }, plan{}},
		"secret": {func(c *config.Config) { c.Connectors[1].Secret = bridge.NewSecret("new") }, plan{
			stop: keys(yard), start: keys(yard), devices: ids("y1", "y2"),
		}},
		"device added": {func(c *config.Config) {
			c.Devices = append(c.Devices, config.Device{ID: "y3", ConnectorName: "yard"})
		}, plan{devices: ids("y3")}},
		"device with downlinks added": {func(c *config.Config) {
			c.Devices = append(c.Devices, config.Device{ID: "y3", ConnectorName: "yard", Downlinks: []config.Downlink{{Webhook: "http://h/1"}}})
		}, plan{stop: keys(yard), start: keys(yard), devices: ids("y1", "y2", "y3"), routes: ids("y3")}},
		"device gone": {func(c *config.Config) { c.Devices = slices.Delete(c.Devices, 1, 2) }, plan{
			stop: keys(p2), gone: ids("p2"),
		}},
		"device of a shared session gone": {func(c *config.Config) { c.Devices = c.Devices[:3] }, plan{gone: ids("y2")}},
		"moved to the shared session": {func(c *config.Config) {
			c.Devices[1].ConnectorName, c.Devices[1].KeyPEM = "yard", bridge.Secret{}
		}, plan{stop: keys(p2), devices: ids("p2")}},
		"moved to one of its own": {func(c *config.Config) {
			c.Devices[3].ConnectorName, c.Devices[3].KeyPEM = "plant", bridge.NewSecret("k")
		}, plan{start: keys(sessionKey{"plant", "y2"}), devices: ids("y2")}},
		"durability": {func(c *config.Config) { c.Devices[0].Durability = config.DurabilityAlways }, plan{devices: ids("p1")}},
		"payload":    {func(c *config.Config) { c.Connectors[0].MaxPayload = 9 }, plan{devices: ids("p1", "p2")}},
		"any":        {func(c *config.Config) { c.Connectors[1].AnyDevice = true }, plan{others: true}},
		"filter":     {func(c *config.Config) { c.Devices[0].Downlinks[0].Subtopic = "y" }, plan{routes: ids("p1")}},
		"no downlinks": {func(c *config.Config) { c.Devices[0].Downlinks = nil }, plan{
			stop: keys(p1), start: keys(p1), devices: ids("p1"), routes: ids("p1"), dropHooks: []string{"http://h/1"},
		}},
		"webhook": {func(c *config.Config) { c.Devices[0].Downlinks[0].Webhook = "http://h/2" }, plan{
			routes: ids("p1"), addHooks: []string{"http://h/2"}, dropHooks: []string{"http://h/1"},
		}},
		"baud":        {func(c *config.Config) { c.Serials[0].Baud = 1 }, plan{closePorts: []string{"scale"}, openPorts: []string{"scale"}}},
		"port gone":   {func(c *config.Config) { c.Serials = c.Serials[:1] }, plan{closePorts: []string{"other"}}},
		"port added":  {func(c *config.Config) { c.Serials = append(c.Serials, config.Serial{Name: "new"}) }, plan{openPorts: []string{"new"}}},
		"max_body":    {func(c *config.Config) { c.HTTP.MaxBody++ }, plan{http: httpSettings}},
		"connections": {func(c *config.Config) { c.HTTP.MaxConnections++ }, plan{http: httpSettings}},
		"certificate": {func(c *config.Config) { c.HTTP.Cert = &config.KeyPair{CertPEM: []byte("c")} }, plan{http: httpSettings}},
		"client CA":   {func(c *config.Config) { c.HTTP.ClientCAPEM = []byte("c") }, plan{http: httpSettings}},
		"listen":      {func(c *config.Config) { c.HTTP.Listen = "127.0.0.1:1" }, plan{http: httpAddress}},
		"keep alive":  {func(c *config.Config) { c.Connectors[0].KeepAlive = 1 }, plan{stop: keys(p1, p2), start: keys(p1, p2), devices: ids("p1", "p2")}},
		"other names": {func(c *config.Config) { c.Connectors[0].KeyFile = "keys/{device}.key" }, plan{}},
	} {
		t.Run(name, func(t *testing.T) {
			next := planConfig()
			c.change(next)
			got := diff(newLayout(planConfig()), newLayout(next))
			for _, list := range []*[]sessionKey{&got.stop, &got.start} {
				slices.SortFunc(*list, func(a, b sessionKey) int {
					return strings.Compare(a.connector+string(a.device), b.connector+string(b.device))
				})
			}
			for _, list := range []*[]bridge.DeviceID{&got.devices, &got.gone, &got.routes} {
				slices.Sort(*list)
			}
			if d := cmp.Diff(c.want, got, cmp.AllowUnexported(plan{}, sessionKey{})); d != "" {
				t.Errorf("plan (-want +got):\n%s", d)
			}
		})
	}
}
