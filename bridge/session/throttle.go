package session

import "time"

const (
	// throttleMin and throttleMax bound the pause between two publishes of a
	// session that the broker has called too fast.
	throttleMin = 100 * time.Millisecond
	throttleMax = 10 * time.Second
	// throttleRelax is how long the broker must not complain for the pause to be
	// halved.
	throttleRelax = time.Minute
)

// throttle slows a session down that the broker has disconnected for sending too
// much (0x96, 0x97): one publish at a time, with a pause between them that
// doubles with each complaint. The zero value holds nothing up. It belongs to
// the goroutine of Run.
type throttle struct {
	pause time.Duration
	next  time.Time // when the next publish may go
	easy  time.Time // when the pause is halved
	timer *time.Timer
}

func (t *throttle) complaint(now time.Time) {
	t.pause = min(max(2*t.pause, throttleMin), throttleMax)
	t.next = now.Add(t.pause)
	t.easy = now.Add(throttleRelax)
}

// active reports whether the session is slowed down.
func (t *throttle) active(now time.Time) bool {
	for t.pause > 0 && !now.Before(t.easy) {
		if t.pause /= 2; t.pause < throttleMin {
			t.pause = 0
		}
		t.easy = t.easy.Add(throttleRelax)
	}
	return t.pause > 0
}

// hold reports whether nothing may be published now. If so, wake is called when
// it may; it must not block.
func (t *throttle) hold(now time.Time, wake func()) bool {
	if !t.active(now) {
		return false
	}
	wait := t.next.Sub(now)
	if wait <= 0 {
		t.next = now.Add(t.pause)
		return false
	}
	t.stop()
	t.timer = time.AfterFunc(wait, wake)
	return true
}

func (t *throttle) stop() {
	if t.timer != nil {
		t.timer.Stop()
	}
}
