package main

import (
	"net/http"
	"sync"
	"testing"

	"fieldbridge/adapters/rest"
	"fieldbridge/adapters/rest/openapitest"
)

// newCheckedClient makes one that holds what the endpoint answers against its
// OpenAPI document.
func newCheckedClient(t *testing.T) *http.Client {
	t.Helper()
	doc, err := openAPI()
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t)
	c.Transport = doc.Transport(c.Transport.(*http.Transport), func(err error) { t.Error(err) })
	return c
}

var openAPI = sync.OnceValues(func() (*openapitest.Document, error) { return openapitest.Parse([]byte(rest.OpenAPI)) })
