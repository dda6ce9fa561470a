package rest

import (
	_ "embed" // the document
	"net/http"
	"strconv"
)

// OpenAPI is the description of the endpoint (OpenAPI 3.1, YAML).
//
//go:embed openapi.yaml
var OpenAPI string

// openapi answers GET /openapi.yaml (RFC 9512). The document is the same for
// everyone and tells nothing about this gateway.
func (s *Server) openapi(w http.ResponseWriter, _ *http.Request) {
	h := w.Header()
	h.Set("Content-Type", "application/yaml")
	h.Set("Content-Length", strconv.Itoa(len(OpenAPI)))
	h.Set("Cache-Control", "max-age=300")
	h.Set("X-Content-Type-Options", "nosniff")
	_, _ = w.Write([]byte(OpenAPI)) // a client that is gone needs no answer
}
