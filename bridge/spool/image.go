package spool

import (
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
)

// image is what the files of a database say page by page, read without SQLite:
// the database with the valid frames of its write-ahead log laid over it.
// Formats: https://www.sqlite.org/fileformat2.html.
type image struct {
	db    io.ReaderAt
	log   io.ReaderAt
	pages uint32           // in the database file, the last one perhaps cut off
	over  map[uint32]int64 // page number to its content's place in log
	spare []int64          // contents in log that belong to damaged frames
	bytes int64            // of both files: nothing in them is longer
}

const (
	logHeader  = 32
	frameBytes = frameHeader + pageSize
)

// page reads a page, as far as it is there.
func (im *image) page(n uint32) ([]byte, bool) {
	buf := make([]byte, pageSize)
	if at, ok := im.over[n]; ok {
		m, _ := im.log.ReadAt(buf, at)
		return buf, m > 0
	}
	if n == 0 || n > im.pages {
		return nil, false
	}
	m, _ := im.db.ReadAt(buf, int64(n-1)*pageSize)
	return buf, m > 0
}

// beyond are the pages that are in the log only, behind the end of the database.
func (im *image) beyond() (pages []uint32) {
	for p := range im.over {
		if p > im.pages {
			pages = append(pages, p)
		}
	}
	slices.Sort(pages)
	return pages
}

func newImage(db io.ReaderAt, dbBytes int64, log io.ReaderAt, logBytes int64) *image {
	im := &image{db: db, log: log, bytes: dbBytes + logBytes, pages: uint32((dbBytes + pageSize - 1) / pageSize)}
	frames := readLog(log, logBytes)
	im.over, im.spare = frames.overlay()
	return im
}

// frame is a frame of the write-ahead log.
type frame struct {
	page   uint32
	at     int64 // of its content
	commit bool  // it ends a transaction
	ours   bool  // its salts are those of the log
	valid  bool  // and its checksum follows from that of the frame before
}

type logFrames struct {
	header bool // is valid, or there is no log
	frames []frame
}

// readLog reads the frames of a log of so many bytes. Each checksum goes on
// from that of the frame before; here from what that frame says it is, so that
// one damaged frame does not hide those behind it.
func readLog(r io.ReaderAt, size int64) (l logFrames) {
	l.header = true
	if r == nil || size < logHeader+frameBytes {
		return l
	}
	var head [logHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return l
	}
	magic := binary.BigEndian.Uint32(head[0:])
	var order binary.ByteOrder = binary.LittleEndian
	if magic == 0x377f0683 {
		order = binary.BigEndian
	}
	sum := logSum{order: order}
	sum.add(head[:24])
	l.header = magic&^1 == 0x377f0682 && sum.equal(head[24:]) && binary.BigEndian.Uint32(head[8:]) == pageSize
	salts := binary.BigEndian.Uint64(head[16:])
	sum.set(head[24:])
	buf := make([]byte, frameBytes)
	for at := int64(logHeader); at+frameBytes <= size; at += frameBytes {
		if _, err := r.ReadAt(buf, at); err != nil {
			return l
		}
		if at == logHeader && !l.header {
			salts = binary.BigEndian.Uint64(buf[8:])
		}
		sum.add(buf[:8])
		sum.add(buf[frameHeader:])
		f := frame{
			page:   binary.BigEndian.Uint32(buf[0:]),
			at:     at + frameHeader,
			commit: binary.BigEndian.Uint32(buf[4:]) != 0,
			ours:   binary.BigEndian.Uint64(buf[8:]) == salts,
		}
		f.valid = f.ours && f.page != 0 && sum.equal(buf[16:])
		l.frames = append(l.frames, f)
		sum.set(buf[16:])
	}
	return l
}

// damaged tells damage from what a power cut leaves. SQLite takes the first bad
// frame for the end of the log. That is right if it belongs to the transaction
// that was being written; then at most one commit comes behind, its own. More
// mean that something was damaged that had been synced.
func (l *logFrames) damaged() bool {
	if !l.header {
		return true
	}
	broken := -1
	commits := 0
	for i, f := range l.frames {
		switch {
		case !f.valid && broken < 0:
			broken = i
		case f.valid && f.commit && broken >= 0:
			commits++
		}
	}
	if broken < 0 {
		return false
	}
	first := l.frames[broken]
	return commits >= 2 || commits == 1 && first.ours && first.commit
}

// overlay returns where the newest content of each page is, up to the last
// commit, and the contents of damaged frames before it.
func (l *logFrames) overlay() (over map[uint32]int64, spare []int64) {
	end := 0
	for i, f := range l.frames {
		if f.valid && f.commit {
			end = i + 1
		}
	}
	over = make(map[uint32]int64)
	for _, f := range l.frames[:end] {
		if f.valid {
			over[f.page] = f.at
		} else {
			spare = append(spare, f.at)
		}
	}
	return over, spare
}

// logSum is the checksum of section 4.2 of the file format.
type logSum struct {
	order  binary.ByteOrder
	s0, s1 uint32
}

func (s *logSum) add(p []byte) {
	for ; len(p) >= 8; p = p[8:] {
		s.s0 += s.order.Uint32(p) + s.s1
		s.s1 += s.order.Uint32(p[4:]) + s.s0
	}
}

func (s *logSum) equal(stored []byte) bool {
	return s.s0 == binary.BigEndian.Uint32(stored) && s.s1 == binary.BigEndian.Uint32(stored[4:])
}

func (s *logSum) set(stored []byte) {
	s.s0, s.s1 = binary.BigEndian.Uint32(stored), binary.BigEndian.Uint32(stored[4:])
}

// checkFiles looks for damage that SQLite would take for the end of the log.
func checkFiles(path string) error {
	log, size, err := openIf(path + "-wal")
	if err != nil || log == nil {
		return err
	}
	defer log.Close()
	if frames := readLog(log, size); frames.damaged() {
		return &damageError{"the write-ahead log has a bad frame before good ones"}
	}
	return nil
}

// openIf opens a file and tells its size; nil if it is not there.
func openIf(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	s, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, s.Size(), nil
}
