package rest

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"testing"

	"github.com/go-chi/chi/v5"
	"go.yaml.in/yaml/v3"

	"fieldbridge/bridge"
)

func TestOpenAPIIsServed(t *testing.T) {
	s := start(t, Options{Tokens: someTokens()}, newIntake())
	for method, body := range map[string]string{"GET": OpenAPI, "HEAD": ""} {
		a := sendRaw(t, s.Addr(), request(method, "/openapi.yaml", ""))
		if a.status != http.StatusOK || string(a.body) != body {
			t.Errorf("%s: status %d, %d bytes, want %d", method, a.status, len(a.body), len(body))
		}
		if h := a.header; h.Get("Content-Type") != "application/yaml" || h.Get("Cache-Control") != "max-age=300" || h.Get("Content-Length") != fmt.Sprint(len(OpenAPI)) {
			t.Errorf("%s: %v", method, h)
		}
	}
}

// TestOpenAPIHasMetricsOfEveryKind: what Prometheus and others ask for is in the
// document, which the server's recorder sees to.
func TestOpenAPIHasMetricsOfEveryKind(t *testing.T) {
	s := startWhole(t, Options{}, newIntake())
	for _, c := range []struct{ header, answer, want string }{
		{"Accept-Encoding: gzip", "Content-Encoding", "gzip"},
		{"Accept-Encoding: zstd, gzip;q=0.5", "Content-Encoding", "gzip"},
		{"Accept: application/openmetrics-text", "Content-Type", "text/plain; version=0.0.4; charset=utf-8; escaping=underscores"},
		{"Accept: application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited", "Content-Type",
			"application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited; escaping=underscores"},
	} {
		a := sendRaw(t, s.Addr(), request("GET", "/metrics", "", c.header))
		if got := a.header.Get(c.answer); a.status != http.StatusOK || got != c.want {
			t.Errorf("%s: status %d, %s %q, want %q", c.header, a.status, c.answer, got, c.want)
		}
	}
}

// TestOpenAPIHasEveryRoute: what is routed is in the document, and the other way
// round.
func TestOpenAPIHasEveryRoute(t *testing.T) {
	doc, err := document()
	if err != nil {
		t.Fatal(err)
	}
	var listed, routed []string
	for _, o := range doc.Operations {
		listed = append(listed, o.Method+" "+o.Route())
	}
	s := startWhole(t, Options{}, newIntake())
	err = chi.Walk(s.routes().(chi.Routes), func(method, route string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		routed = append(routed, method+" "+route)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(listed)
	slices.Sort(routed)
	if !slices.Equal(listed, routed) {
		t.Errorf("the document has\n%s\nwant\n%s", strings.Join(listed, "\n"), strings.Join(routed, "\n"))
	}
}

// TestOpenAPIHasEveryWord: lists that are both in the document and in the code are
// the same.
func TestOpenAPIHasEveryWord(t *testing.T) {
	var doc struct {
		Components struct {
			RequestBodies map[string]struct{ Content map[string]any } `yaml:"requestBodies"`
			Schemas       struct {
				EventKind struct{ Enum []string } `yaml:"EventKind"`
			}
		}
	}
	if err := yaml.Unmarshal([]byte(OpenAPI), &doc); err != nil {
		t.Fatal(err)
	}
	if got := doc.Components.Schemas.EventKind.Enum; !slices.Equal(got, eventKinds) {
		t.Errorf("kinds of events %v, want %v", got, eventKinds)
	}
	for _, body := range []string{"Reading", "Answer"} {
		got := slices.Sorted(maps.Keys(doc.Components.RequestBodies[body].Content))
		if want := slices.Sorted(slices.Values(bridge.ContentTypes)); !slices.Equal(got, want) {
			t.Errorf("%s: content types %v, want %v", body, got, want)
		}
	}
}
