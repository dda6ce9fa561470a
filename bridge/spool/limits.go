package spool

import (
	"database/sql/driver"
	"fmt"

	"golang.org/x/sys/unix"

	"fieldbridge/bridge"
)

// freeSpace is what an ordinary user may still write to dir's file system.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, fmt.Errorf("statfs: %w", err)
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}

func full(format string, args ...any) error {
	return refuse(fmt.Errorf("%w: "+format, append([]any{bridge.ErrSpoolFull}, args...)...))
}

// makeRoom refuses readings that go beyond a limit, or deletes the oldest ones
// so that they do not.
func (t *tx) makeRoom(rs []bridge.Reading) error {
	o := &t.db.opts
	need, perDevice := weigh(rs)
	if o.MaxBytes > 0 && need > o.MaxBytes {
		return full("%d bytes at once are more than max_bytes (%d)", need, o.MaxBytes)
	}
	held := t.db.use.readings.bytes + t.use.readings.bytes
	over := held + need - o.MaxBytes
	if o.MaxBytes > 0 && over > 0 && o.WhenFull == Reject {
		return full("max_bytes (%d) is reached", o.MaxBytes)
	}
	if err := t.checkDevices(perDevice); err != nil {
		return err
	}
	low, err := t.diskLow(need)
	if err != nil {
		return err
	}
	if low {
		if o.WhenFull == Reject || held == 0 {
			return full("min_free (%d) of the file system is reached", o.MinFree)
		}
		over = max(over, 2*need)
	}
	if err := t.makeRoomOfDevices(perDevice); err != nil {
		return err
	}
	over -= held - (t.db.use.readings.bytes + t.use.readings.bytes)
	if over > 0 && (o.MaxBytes > 0 || low) {
		return t.dropOldest("", over)
	}
	return nil
}

func weigh(rs []bridge.Reading) (need int64, perDevice map[bridge.DeviceID]int64) {
	perDevice = make(map[bridge.DeviceID]int64, 1)
	for i := range rs {
		n := sizeOf(&rs[i])
		need += n
		perDevice[rs[i].Device] += n
	}
	return need, perDevice
}

// overOfDevice is by how much need brings a device above its limit.
func (t *tx) overOfDevice(device bridge.DeviceID, need int64) int64 {
	limit := t.db.opts.MaxBytesPerDevice
	if limit <= 0 {
		return 0
	}
	over := t.use.devices[device].bytes + need - limit
	if b := t.db.use.devices[device]; b != nil {
		over += b.bytes
	}
	return over
}

func (t *tx) checkDevices(perDevice map[bridge.DeviceID]int64) error {
	limit := t.db.opts.MaxBytesPerDevice
	for device, need := range perDevice {
		if over := t.overOfDevice(device, need); over > 0 && (need > limit || t.db.opts.WhenFull == Reject) {
			return full("max_bytes_per_device (%d) is reached", limit)
		}
	}
	return nil
}

func (t *tx) makeRoomOfDevices(perDevice map[bridge.DeviceID]int64) error {
	for device, need := range perDevice {
		if over := t.overOfDevice(device, need); over > 0 {
			if err := t.dropOldest(device, over); err != nil {
				return err
			}
		}
	}
	return nil
}

// dropOldest deletes the oldest readings of a device, or of all if device is
// "", until so many bytes are gone.
func (t *tx) dropOldest(device bridge.DeviceID, bytes int64) error {
	var seqs []int64
	take := func(row []driver.Value) error {
		seqs = append(seqs, asInt(row[0]))
		if bytes -= asInt(row[1]); bytes <= 0 {
			return errStop
		}
		return nil
	}
	if device == "" {
		if err := t.c.query("SELECT seq, size FROM readings ORDER BY seq", take); err != nil {
			return err
		}
	}
	for after := int64(0); device != "" && bytes > 0; {
		next := t.seqsOf(device, after)
		if len(next) == 0 {
			break
		}
		for i := 0; i < len(next) && bytes > 0; i++ {
			if err := t.c.query("SELECT seq, size FROM readings WHERE seq = ?", take, next[i]); err != nil {
				return err
			}
		}
		after = next[len(next)-1]
	}
	t.droppedFull += int64(len(seqs))
	return t.dropReadings(seqs)
}

// seqsOf returns some places of a device's readings above a seq, those of this
// transaction too.
func (t *tx) seqsOf(device bridge.DeviceID, after int64) []int64 {
	var seqs []int64
	if b := t.db.use.devices[device]; b != nil {
		seqs = b.seqs.after(after, 256)
	}
	if len(seqs) > 0 {
		return seqs
	}
	for _, p := range t.use.added {
		if p.device == device && p.seq > after {
			seqs = append(seqs, p.seq)
		}
	}
	return seqs
}

// dropReadings deletes readings that nobody has got, and their keys: sent
// again, such a reading is a new one.
func (t *tx) dropReadings(seqs []int64) error {
	if err := t.deleteReadings(seqs); err != nil {
		return err
	}
	return t.forgetKeys(seqs)
}

// diskLow reports that need more bytes would leave too little of the file
// system to others. Pages that are free within the database count as room.
func (t *tx) diskLow(need int64) (bool, error) {
	o := &t.db.opts
	if o.MinFree <= 0 {
		return false, nil
	}
	if !t.freeRead {
		free, err := o.freeSpace(o.Dir)
		if err != nil {
			return false, err
		}
		t.free, t.freeRead = free, true
	}
	need *= 2 // once in the log, once in the database
	if t.free-need >= o.MinFree {
		t.free -= need
		return false, nil
	}
	pages, err := t.c.integer("PRAGMA freelist_count")
	if err != nil {
		return false, err
	}
	return pages*pageSize < 2*need, nil
}

// quarter is the room that dead letters, downlinks and keys have each.
func (d *DB) quarter() int64 {
	if d.opts.MaxBytes <= 0 {
		return 64 << 20
	}
	return max(d.opts.MaxBytes/4, 64<<10)
}
