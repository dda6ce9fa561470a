package spool

import (
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// reserveBytes is given up when the file system is full: enough for the
	// log's index, a checkpoint's new pages and the deletes of many readings,
	// without which a full disk could not be drained.
	reserveBytes = 2 << 20
	// renewEvery is how often it is tried to have the reserve again, renewRoom
	// how much must be free for that beside min_free.
	renewEvery = 10 * time.Second
	renewRoom  = 4 * reserveBytes
)

// reserve is a file that only takes up room.
type reserve struct {
	path  string
	there bool
	next  time.Time
}

// release gives the room back.
func (r *reserve) release(logger *slog.Logger) bool {
	if !r.there {
		return false
	}
	r.there = false
	r.next = time.Now().Add(renewEvery)
	if err := os.Remove(r.path); err != nil {
		logger.Error("file system full, releasing the reserve failed", "error", err)
		return false
	}
	logger.Warn("file system full, reserve released", "bytes", reserveBytes)
	return true
}

// renew makes the file again once there is room.
func (r *reserve) renew(d *DB) {
	if r.there || time.Now().Before(r.next) {
		return
	}
	r.next = time.Now().Add(renewEvery)
	free, err := d.opts.freeSpace(d.opts.Dir)
	if err != nil || free < d.opts.MinFree+renewRoom {
		return
	}
	if err := makeReserve(r.path); err != nil {
		d.logger.Debug("making the reserve failed", "error", err)
		return
	}
	r.there = true
}

func makeReserve(path string) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	return unix.Fallocate(int(f.Fd()), 0, 0, reserveBytes)
}

func findReserve(dir string) reserve {
	r := reserve{path: filepath.Join(dir, reserveName)}
	if s, err := os.Stat(r.path); err == nil && s.Size() == reserveBytes {
		r.there = true
	}
	return r
}
