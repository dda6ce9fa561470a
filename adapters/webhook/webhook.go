// Package webhook delivers downlinks over HTTP: each one is POSTed to the URL of
// a local app, with the payload as body and the rest in headers.
//
// A [Target] makes one attempt per call and says in a *bridge.DeliveryError what
// another one is worth; when to try again, and for how long, is the Bridge's
// business.
package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"fieldbridge/bridge"
)

const (
	// DefaultTimeout bounds an attempt unless Options say otherwise.
	DefaultTimeout = 10 * time.Second

	defaultUserAgent = "fieldbridge"

	// A body that nobody wants is read so that the connection can serve the next
	// downlink; beyond this much or this long a new connection is
	// cheaper.
	maxDrain     = 64 << 10
	maxDrainTime = time.Second

	maxAnswerHeader = 64 << 10

	// maxAnswer bounds a body that goes back up.
	maxAnswer = 256 << 10
)

// Options describe a target. URL is needed, the zero value of everything else is
// its default.
type Options struct {
	// URL to POST to, http or https. User and password in it are sent as basic
	// authentication; they and the query, which may hold a secret, too, never
	// appear in an error or a log line.
	URL string
	// Transport makes the requests. It must follow no redirects, as
	// *http.Transport does not. Nil means an own one, without a proxy: the target
	// is an app on this machine or in its network.
	Transport http.RoundTripper
	// Secrets sign each attempt; they are the bytes that receivers have in base64
	// behind "whsec_". Several are for changing one without a gap. None: no
	// signature.
	Secrets []bridge.Secret
	// CAPEM are certificates that are trusted beside those of the system. Proxy is
	// "" for none, ProxyFromEnvironment, or a URL. Neither is looked at if
	// Transport is set.
	CAPEM []byte
	Proxy string
	// Timeout bounds an attempt, from dialling to the answer's header.
	Timeout time.Duration
	// UserAgent is the User-Agent header.
	UserAgent string
	// Logger gets a line at level DEBUG per answer. Nil means no logging.
	Logger *slog.Logger
}

// Target is one webhook. Make it with New. Deliver may be called from several
// goroutines.
type Target struct {
	url       *url.URL // without user and password
	user      *url.Userinfo
	name      string // the URL without what may be secret
	transport http.RoundTripper
	secrets   atomic.Pointer[[]bridge.Secret] // never nil
	timeout   time.Duration
	userAgent string
	log       *slog.Logger
}

// New makes a target from o, without connecting to it.
func New(o Options) (*Target, error) {
	u, err := url.Parse(o.URL)
	if err != nil {
		// The parser's own words may quote a password.
		return nil, errors.New("webhook url: not a valid URL: write it like http://127.0.0.1:9000/path, " +
			"with special characters percent-encoded")
	}
	name := u.Scheme + "://" + u.Host + u.EscapedPath()
	switch {
	case u.Scheme != "http" && u.Scheme != "https":
		return nil, errors.New("webhook url: must begin with http:// or https://")
	case u.Hostname() == "":
		return nil, fmt.Errorf("webhook url %s: host is missing", name)
	case u.Fragment != "":
		return nil, fmt.Errorf("webhook url %s: has a fragment (#…), which is never sent: remove it", name)
	case o.Timeout < 0:
		return nil, fmt.Errorf("webhook %s: timeout must be above zero (got %s)", name, o.Timeout)
	}
	t := &Target{
		url: u, user: u.User, name: name,
		transport: o.Transport, timeout: o.Timeout, userAgent: o.UserAgent, log: o.Logger,
	}
	u.User = nil
	t.SetSecrets(o.Secrets)
	if t.transport == nil {
		if t.transport, err = newTransport(o); err != nil {
			return nil, fmt.Errorf("webhook %s: %w", name, err)
		}
	}
	if t.timeout == 0 {
		t.timeout = DefaultTimeout
	}
	if t.userAgent == "" {
		t.userAgent = defaultUserAgent
	}
	if t.log == nil {
		t.log = slog.New(slog.DiscardHandler)
	}
	return t, nil
}

// SetSecrets puts others in the place of Options.Secrets, from the next attempt
// on. They are not changed any more.
func (t *Target) SetSecrets(secrets []bridge.Secret) { t.secrets.Store(&secrets) }

// Close closes idle connections. Deliver works after it, too.
func (t *Target) Close() {
	if c, ok := t.transport.(interface{ CloseIdleConnections() }); ok {
		c.CloseIdleConnections()
	}
}

var _ bridge.Deliverer = (*Target)(nil)

// Deliver POSTs the downlink once. After a 2xx answer the downlink is delivered,
// whatever becomes of the answer's body. If the downlink has a response topic, a
// body that is not empty is the Answer, with its content type if that is one of
// bridge.ContentTypes; one above 256 KiB, or that is not complete within Timeout,
// is dropped and said so in the log. Any other error is a *bridge.DeliveryError: 408,
// 425, 429, 5xx and no answer within Timeout are worth another attempt, not
// before the answer's Retry-After if there is one; 3xx, as redirects are not
// followed, and any other 4xx are permanent.
//
// The headers are webhook-id and webhook-timestamp (seconds since 1970, of this
// attempt), with secrets webhook-signature, as in Standard Webhooks
// (https://github.com/standard-webhooks/standard-webhooks, "Webhook Headers"),
// fieldbridge-device, and fieldbridge-subtopic unless the sub topic is empty. In
// all but timestamp and signature every byte outside of visible ASCII and every "%" is
// percent-encoded: a URL path decoder gives the original back.
func (t *Target) Deliver(ctx context.Context, d bridge.Downlink) (*bridge.Answer, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	limit := time.AfterFunc(t.timeout, func() { cancel(fmt.Errorf("no answer within %s", t.timeout)) })
	defer limit.Stop()

	req, err := t.request(ctx, d)
	if err != nil {
		return nil, &bridge.DeliveryError{Permanent: true, Err: fmt.Errorf("webhook %s: cannot make a request: %w", t.name, err)}
	}
	resp, err := t.transport.RoundTrip(req)
	if err != nil {
		// Not the transport's word for it, "context canceled".
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, &bridge.DeliveryError{Err: fmt.Errorf("webhook %s: %w", t.name, err)}
	}
	err = t.judge(resp)
	var answer *bridge.Answer
	if err == nil && d.ResponseTopic != "" {
		answer = t.answer(resp, d)
	}
	limit.Reset(maxDrainTime)
	_, _ = io.CopyN(io.Discard, resp.Body, maxDrain)
	_ = resp.Body.Close()
	t.log.Debug("webhook answered", "device", string(d.Device), "code", resp.StatusCode)
	return answer, err
}

// answer reads a body that goes back up; nil if there is none.
func (t *Target) answer(resp *http.Response, d bridge.Downlink) *bridge.Answer {
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	switch {
	case err == nil && len(body) > maxAnswer:
		err = fmt.Errorf("it has more than %d bytes", maxAnswer)
		fallthrough
	case err != nil:
		t.log.Warn("body of the webhook's answer dropped, the downlink is delivered without one",
			"webhook", t.name, "device", string(d.Device), "id", d.ID, "error", err)
		return nil
	case len(body) == 0:
		return nil
	}
	ct, err := bridge.ParseContentType(resp.Header.Get("Content-Type"))
	if err != nil || resp.Header.Get("Content-Encoding") != "" {
		ct = "application/octet-stream"
	}
	return &bridge.Answer{Payload: body, ContentType: ct}
}

func (t *Target) request(ctx context.Context, d bridge.Downlink) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, t.url.String(), bytes.NewReader(d.Payload))
	if err != nil {
		return nil, err
	}
	if t.user != nil {
		password, _ := t.user.Password()
		req.SetBasicAuth(t.user.Username(), password)
	}
	req.Header.Set("Content-Type", contentType(d.ContentType))
	req.Header.Set("User-Agent", t.userAgent)
	id, timestamp := encodeHeader(d.ID), strconv.FormatInt(time.Now().Unix(), 10)
	req.Header.Set("webhook-id", id)
	req.Header.Set("webhook-timestamp", timestamp)
	if secrets := *t.secrets.Load(); len(secrets) > 0 {
		req.Header.Set("webhook-signature", signatures(secrets, id, timestamp, d.Payload))
	}
	req.Header.Set("fieldbridge-device", encodeHeader(string(d.Device)))
	if d.Subtopic != "" {
		req.Header.Set("fieldbridge-subtopic", encodeHeader(d.Subtopic))
	}
	return req, nil
}

// judge turns an answer's status into the result of the attempt.
func (t *Target) judge(resp *http.Response) error {
	code := resp.StatusCode
	if code >= 200 && code <= 299 {
		return nil
	}
	// The standard's text for the code, not the server's, which could quote
	// anything.
	answer := strconv.Itoa(code)
	if text := http.StatusText(code); text != "" {
		answer += " " + text
	}
	e := &bridge.DeliveryError{}
	switch {
	case code >= 300 && code <= 399:
		e.Permanent = true
		e.Err = fmt.Errorf("webhook %s: answered %s: redirects are not followed: configure the final URL", t.name, answer)
	case code >= 400 && code <= 499 && !worthRetrying(code):
		e.Permanent = true
		e.Err = fmt.Errorf("webhook %s: refused with %s", t.name, answer)
	default:
		e.RetryAfter = retryAfter(resp.Header.Get("Retry-After"), resp.Header.Get("Date"), time.Now())
		e.Err = fmt.Errorf("webhook %s: answered %s", t.name, answer)
	}
	return e
}

// worthRetrying reports whether a 4xx may become a 2xx by itself.
func worthRetrying(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooEarly, http.StatusTooManyRequests:
		return true
	}
	return false
}
