package devbroker_test

import (
	"crypto"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"fieldbridge/bridge"
	"fieldbridge/bridge/devbroker"
)

func TestOptionErrors(t *testing.T) {
	for want, o := range map[string]devbroker.Options{
		"device id":             {Devices: map[bridge.DeviceID]crypto.PublicKey{"a/b": key(t, dev).Public()}},
		"must be *rsa":          {Devices: map[bridge.DeviceID]crypto.PublicKey{"a": nil}},
		"connector id is empty": {Connectors: map[string]bridge.Secret{"": bridge.NewSecret("x")}},
		"one MQTT topic level":  {Connectors: map[string]bridge.Secret{"c": bridge.NewSecret("hunter2/x")}},
		"whole seconds":         {ServerKeepAlive: time.Millisecond},
	} {
		_, err := devbroker.New(o)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

func TestOptionsDoNotShowSecrets(t *testing.T) {
	o := devbroker.Options{Connectors: map[string]bridge.Secret{connector: bridge.NewSecret(secret)}}
	text, err := json.Marshal(o.Connectors)
	if s := fmt.Sprintf("%v %+v %#v %s", o, o, o, text); err != nil || strings.Contains(s, secret) {
		t.Errorf("error %v, text %s", err, s)
	}
}
