package bridge

import (
	"context"
	"errors"
	"sync/atomic"
	"time"
)

// answerGrace is how long the end of a target waits for an answer that is on its
// way to the disk: the downlink would be delivered once more otherwise.
const answerGrace = time.Second

// reply sends the answer to a downlink up, in the order of its device's readings,
// and reports true once it is durable, or never can be sent, so that the
// downlink may go. It reports false when ctx is done before that.
func (b *Bridge) reply(ctx context.Context, d StoredDownlink, a *Answer) bool {
	r := Reading{
		Device: d.Device, ContentType: answerType(a.ContentType), Payload: a.Payload,
		ResponseTopic: d.ResponseTopic, CorrelationData: d.CorrelationData,
	}
	b.complete(&r)
	log := b.logger.With("device", d.Device, "downlink", d.ID, "id", r.ID)
	patient, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	defer context.AfterFunc(ctx, func() { time.AfterFunc(answerGrace, cancel) })()
	for attempt := 1; ; attempt++ {
		_, err := b.accept(patient, r, Handling{Async: true})
		if errors.Is(err, ErrSpoolFull) {
			_, err = b.accept(patient, r, Handling{}) // the broker may take it at once
		}
		var rejected *RejectedError
		switch {
		case err == nil:
			b.counts.answers.Add(1)
			log.Debug("answer to a downlink taken")
			return true
		case errors.Is(err, ErrUnknownDevice), errors.Is(err, ErrTooLarge), errors.As(err, &rejected):
			b.counts.answersDropped.Add(1)
			log.Error("answer to a downlink dropped", "error", err)
			return true
		case ctx.Err() != nil:
			return false
		case !time.Now().Before(d.expiry(&b.maxAge)):
			b.counts.answersDropped.Add(1)
			log.Error("answer to a downlink dropped: there was no room for it until the downlink expired", "error", err)
			return true
		}
		pause := b.opts.Delivery.pause(attempt, 0)
		log.Warn("answer to a downlink not taken yet", "error", err, "retry_in", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

// answerType is the content type of an answer.
func answerType(s string) string {
	if ct, err := ParseContentType(s); err == nil {
		return ct
	}
	return "application/octet-stream"
}

// expiry is when a downlink is given up. maxAge is for those without an expiry of
// their own, in nanoseconds.
func (d *StoredDownlink) expiry(maxAge *atomic.Int64) time.Time {
	if !d.Expires.IsZero() {
		return d.Expires
	}
	return d.Received.Add(time.Duration(maxAge.Load()))
}
