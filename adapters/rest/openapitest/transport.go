package openapitest

import (
	"bytes"
	"fmt"
	"io"
	"mime"
	"net/http"
)

// Transport is for a client of the endpoint: it checks what is answered to it, but
// for streams, and requests whose body can be had only once. It tells fault, which
// may be called from many goroutines, what is wrong.
func (d *Document) Transport(next *http.Transport, fault func(error)) http.RoundTripper {
	return &transport{Transport: next, doc: d, fault: fault}
}

// transport has the CloseIdleConnections of what it embeds.
type transport struct {
	*http.Transport
	doc   *Document
	fault func(error)
}

// RoundTrip implements http.RoundTripper. An answer that breaks off does so for the
// client, too.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	x := &Exchange{Method: req.Method, Path: req.URL.EscapedPath(), Query: req.URL.RawQuery, Request: req.Header.Clone()}
	if req.GetBody != nil {
		body, err := req.GetBody()
		if err == nil {
			x.Body, err = io.ReadAll(body)
		}
		if err != nil {
			return nil, fmt.Errorf("body of the request: %w", err)
		}
	}
	resp, err := t.Transport.RoundTrip(req)
	if err != nil || req.Body != nil && req.GetBody == nil {
		return resp, err
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == eventStream || kind == ndjson {
		return resp, nil
	}
	answer, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	resp.Body = io.NopCloser(io.MultiReader(bytes.NewReader(answer), broken{err}))
	x.Status, x.Header, x.Answer, x.Broken = resp.StatusCode, resp.Header, answer, err != nil
	if _, err := t.doc.Check(x); err != nil {
		t.fault(err)
	}
	return resp, nil
}

// broken has nothing but an error; nil is the end.
type broken struct{ error }

func (b broken) Read([]byte) (int, error) {
	if b.error == nil {
		return 0, io.EOF
	}
	return 0, b.error
}
