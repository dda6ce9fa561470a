package spool

import "time"

// Limits are the settings of Options that can change while a DB is open, with
// the meaning that they have there.
type Limits struct {
	MaxBytes, MaxBytesPerDevice, MinFree int64
	MaxAge                               time.Duration
	WhenFull                             string
}

// SetLimits changes the limits for what comes from now on. What is stored stays,
// even if it is more than is allowed now.
func (d *DB) SetLimits(l Limits) {
	d.mu.Lock()
	d.limits = &l
	d.mu.Unlock()
	d.signal()
}

// adopt is called by the writer, which alone uses the limits, with mu held.
func (d *DB) adopt() {
	if l := d.limits; l != nil {
		o := &d.opts
		o.MaxBytes, o.MaxBytesPerDevice, o.MinFree = l.MaxBytes, l.MaxBytesPerDevice, l.MinFree
		o.MaxAge = l.MaxAge
		if o.WhenFull = Reject; l.WhenFull == DropOldest {
			o.WhenFull = DropOldest
		}
		d.limits = nil
	}
}
