package rest

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"fieldbridge/bridge"
)

// batchShare of the readings in progress can be batches: one holds more memory than
// a reading, a page of lines and what they are made into.
const batchShare = 8

// batchType is the media type of newline-delimited JSON.
const batchType = "application/x-ndjson"

// A page of a batch is what is given to the Accepter at once: what has come, up
// to these bounds. With Options.MaxConcurrent they bound the memory of batches.
const (
	pageLines = 256
	pageBytes = 256 << 10
	// lineExtra is what a line may have beside its payload.
	lineExtra = 8 << 10
)

// lineResult is the answer to one line: that of a single reading, or its problem.
type lineResult struct {
	line    int
	receipt bridge.Receipt
	problem *lineProblem // nil: there is a receipt
}

type lineProblem struct {
	Line       int    `json:"line"`
	Status     int    `json:"status"`
	Title      string `json:"title"`
	Detail     string `json:"detail"`
	ReasonCode int    `json:"reasonCode,omitempty"`
	RetryAfter int    `json:"retryAfter,omitempty"` // seconds
}

// batch takes readings, one JSON object a line, and answers with one result a
// line, in order. It works a page at a time, so that neither needs to be held as
// a whole: results go out while lines still come in. A line that is refused does
// not end the batch.
func (s *Server) batch(w http.ResponseWriter, r *http.Request) {
	async, err := batchHandling(r)
	if err != nil {
		s.fail(w, err)
		return
	}
	leave, ok := occupy(w, s.batches, "batches are under way")
	if !ok {
		return
	}
	defer leave()
	b := &batcher{
		s: s, r: r, w: w, async: async, to: http.NewResponseController(w),
		in: bufio.NewReaderSize(r.Body, 32<<10), max: int(s.opts.MaxBody)*4/3 + lineExtra,
	}
	// Without it net/http reads what is left of the body, up to a bound, before
	// the first result goes out.
	_ = b.to.EnableFullDuplex()
	defer b.watch()()
	for b.next() {
	}
}

// batchHandling checks what is about the whole batch.
func batchHandling(r *http.Request) (async bool, err error) {
	if err := refuseCoding(r.Header); err != nil {
		return false, err
	}
	if types := r.Header["Content-Type"]; len(types) != 1 || bridge.MediaType(types[0]) != batchType {
		return false, &problem{status: http.StatusUnsupportedMediaType, header: http.Header{"Accept-Post": {batchType}},
			detail: "a batch is " + batchType + ", one JSON object a line; send it with this Content-Type, or a single reading to /v1/devices/{device}/uplink"}
	}
	if r.URL.RawQuery != "" {
		return false, badRequest("a batch has no query parameters; put timestamp and the like into its lines")
	}
	if len(r.Header["Idempotency-Key"]) > 0 {
		return false, badRequest("an Idempotency-Key is for one reading, and a batch has many; put each line's into the line, as idempotencyKey")
	}
	return prefersAsync(r.Header["Prefer"]), nil
}

// batcher is a batch under way.
type batcher struct {
	s     *Server
	r     *http.Request
	w     http.ResponseWriter
	to    *http.ResponseController
	in    *bufio.Reader
	max   int // bytes of a line
	async bool

	line    int // the number of the last one read
	began   bool
	results []lineResult
	// readings are those of the page that can be given to the Accepter, at are
	// the places of their results.
	readings []bridge.Reading
	keys     []bridge.Key
	at       []int
}

// next does a page. It reports whether there may be more.
func (b *batcher) next() bool {
	b.results, b.readings, b.keys, b.at = b.results[:0], nil, nil, b.at[:0]
	// The server's own deadlines are for requests of one reading.
	_ = b.to.SetReadDeadline(time.Now().Add(b.s.opts.ReadTimeout))
	if b.s.isLast() {
		b.hurry()
	}
	more := b.readPage()
	b.accept()
	if more && b.s.isLast() {
		more = false
		b.line++
		b.refuse(b.s.goneProblem())
	}
	return b.answer() && more
}

// watch has the batch read no more lines when it is time for it to end, until stop
// is called.
func (b *batcher) watch() (stop func()) {
	var over sync.WaitGroup
	done := make(chan struct{})
	over.Go(func() {
		select {
		case <-b.s.last:
			b.hurry()
		case <-done:
		}
	})
	return func() {
		close(done)
		over.Wait() // the connection may be another request's then
	}
}

// hurry ends the wait for a line.
func (b *batcher) hurry() { _ = b.to.SetReadDeadline(time.Unix(1, 0)) }

// goneProblem is that of a line which a batch does not get to.
func (s *Server) goneProblem() *problem {
	why := "fieldbridge stops"
	if s.followed.Load() {
		why = "the configuration was reloaded, and open batches come to their end"
	}
	return &problem{status: http.StatusServiceUnavailable, retryAfter: stopRetry,
		detail: "not accepted, nor what follows: " + why + "; send this line and the rest again"}
}

// readPage reads and checks lines: at least one, and further ones as far as they
// have come and fit.
func (b *batcher) readPage() (more bool) {
	for size := 0; ; {
		text, err := b.readLine()
		size += len(text)
		if blank := len(bytes.TrimSpace(text)) == 0; !blank || err != nil && err != io.EOF {
			b.take(text, err)
		}
		if err != nil && !errors.Is(err, errLongLine) {
			return false
		}
		if !b.hasLine() || len(b.results) >= pageLines || size >= pageBytes {
			return true
		}
	}
}

// hasLine reports whether another line, or the rest of the body, has come.
func (b *batcher) hasLine() bool {
	text, _ := b.in.Peek(b.in.Buffered())
	body, ok := b.r.Body.(*body)
	return bytes.IndexByte(text, '\n') >= 0 || ok && len(text) > 0 && int64(body.got) == body.length
}

// errLongLine: the rest of the line has been skipped.
var errLongLine = errors.New("the line is too long")

// readLine returns the next line, which is the caller's. The error is io.EOF
// behind the last one, which need not end with a newline.
func (b *batcher) readLine() (line []byte, err error) {
	b.line++
	long := false
	for {
		part, err := b.in.ReadSlice('\n')
		if long = long || len(line)+len(part) > b.max; !long {
			line = append(line, part...)
		}
		switch {
		case err == bufio.ErrBufferFull:
		case long && (err == nil || err == io.EOF):
			return nil, errLongLine
		default:
			return line, err
		}
	}
}

// take checks a line and adds its result, or makes it a reading of the page.
func (b *batcher) take(text []byte, err error) {
	if errors.Is(err, errLongLine) {
		b.refuse(&problem{status: http.StatusRequestEntityTooLarge,
			detail: fmt.Sprintf("the line is longer than %d bytes; send less at a time, or raise http.max_body", b.max)})
		return
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && b.s.isLast() {
		b.refuse(b.s.goneProblem())
		return
	}
	if err != nil && err != io.EOF {
		b.refuse(bodyError(err, len(text)))
		return
	}
	reading, key, err := b.s.parseLine(b.r, text)
	if err != nil {
		b.refuse(err)
		return
	}
	b.at = append(b.at, len(b.results))
	b.results = append(b.results, lineResult{line: b.line})
	b.readings, b.keys = append(b.readings, reading), append(b.keys, key)
}

func (b *batcher) refuse(err error) {
	b.results = append(b.results, lineResult{line: b.line, problem: b.problem(b.line, err)})
}

func (b *batcher) problem(line int, err error) *lineProblem {
	p := b.s.problemFor(b.w, err)
	return &lineProblem{
		Line: line, Status: p.status, Title: http.StatusText(p.status), Detail: p.detail,
		ReasonCode: int(p.reasonCode), RetryAfter: wholeSeconds(p.retryAfter),
	}
}

// accept gives the page's readings to the Accepter and notes what it says.
func (b *batcher) accept() {
	if len(b.readings) == 0 {
		return
	}
	for i, got := range b.s.accepter.AcceptAll(b.s.acceptance.context(), b.readings, b.keys, b.async) {
		to := &b.results[b.at[i]]
		if got.Err != nil {
			to.problem = b.problem(to.line, got.Err)
			continue
		}
		to.receipt = got.Receipt
	}
}

// answer writes the page's results. It reports whether the client takes them.
func (b *batcher) answer() bool {
	if !b.began && len(b.results) == 0 {
		refuse(b.w, badRequest("the body has no lines; send one JSON object a line"))
		return false
	}
	if len(b.results) == 0 {
		return true
	}
	_ = b.to.SetWriteDeadline(time.Now().Add(answerTime))
	if !b.began {
		b.began = true
		goOn(b.w)
		h := b.w.Header()
		h.Set("Content-Type", batchType)
		h.Set("Cache-Control", "no-store")
		h.Set("X-Content-Type-Options", "nosniff")
		b.w.WriteHeader(http.StatusOK)
	}
	out := bytes.NewBuffer(make([]byte, 0, len(b.results)*(receiptBytes+16)))
	for i := range b.results {
		b.results[i].writeTo(out)
	}
	_, err := b.w.Write(out.Bytes())
	return err == nil && b.to.Flush() == nil
}

func (l *lineResult) writeTo(out *bytes.Buffer) {
	if l.problem != nil {
		enc := json.NewEncoder(out)
		enc.SetEscapeHTML(false)
		_ = enc.Encode(l.problem) // numbers and strings can always be encoded
		return
	}
	line := strconv.AppendInt(append(out.AvailableBuffer(), `{"line":`...), int64(l.line), 10)
	line = strconv.AppendInt(append(line, `,"status":`...), int64(statusOf(&l.receipt)), 10)
	line = appendReceipt(append(line, ','), &l.receipt)
	out.Write(append(line, "}\n"...))
}
