package spool

import (
	"database/sql/driver"
	"encoding/binary"
	"math"
)

// walker finds the rows of all tables in an image, whatever state it is in.
type walker struct {
	im   *image
	seen map[uint32]bool
	row  func(rowid int64, values []driver.Value) error
	err  error // what row returned
}

// Types of b-tree pages.
const (
	interiorTable = 0x05
	leafTable     = 0x0d
	interiorIndex = 0x02
	leafIndex     = 0x0a
)

// maxDepth of a b-tree that fits into 2^32 pages, with room to spare.
const maxDepth = 40

// walk calls row for each row that can be found: first those that the tables
// lead to, then those on leaves that nothing leads to any more and that are not
// free. A row may come twice, in different versions.
func (w *walker) walk() error {
	w.seen = make(map[uint32]bool)
	var roots []uint32
	rows := w.row
	w.row = func(_ int64, v []driver.Value) error {
		if len(v) == 5 && asString(v[0]) == "table" {
			if n := asInt(v[3]); n > 1 && n <= math.MaxUint32 {
				roots = append(roots, uint32(n))
			}
		}
		return nil
	}
	w.tree(1, maxDepth)
	w.row = rows
	for _, r := range roots {
		w.tree(r, maxDepth)
	}
	w.freelist()
	for n := uint32(2); n <= w.im.pages; n++ {
		w.orphan(n)
	}
	for _, n := range w.im.beyond() {
		w.orphan(n)
	}
	for _, at := range w.im.spare {
		p := make([]byte, pageSize)
		if m, _ := w.im.log.ReadAt(p, at); m > 0 && p[0] == leafTable && w.err == nil {
			w.leaf(p, 0)
		}
	}
	return w.err
}

// orphan reads a leaf of a table that nothing has led to.
func (w *walker) orphan(n uint32) {
	if w.seen[n] || w.err != nil {
		return
	}
	if p, ok := w.im.page(n); ok && p[0] == leafTable {
		w.leaf(p, 0)
	}
}

// tree goes down from a page of a table.
func (w *walker) tree(n uint32, depth int) {
	if depth == 0 || w.seen[n] || w.err != nil {
		return
	}
	p, ok := w.im.page(n)
	if !ok {
		return
	}
	head := 0
	if n == 1 {
		head = 100
	}
	switch p[head] {
	case leafTable:
		w.seen[n] = true
		w.leaf(p, head)
	case interiorTable:
		w.seen[n] = true
		for _, at := range cells(p, head, 12) {
			if at+4 <= pageSize {
				w.tree(binary.BigEndian.Uint32(p[at:]), depth-1)
			}
		}
		w.tree(binary.BigEndian.Uint32(p[head+8:]), depth-1)
	}
}

// cells returns the places of a page's cells; size is that of its header.
func cells(p []byte, head, size int) []int {
	count := int(binary.BigEndian.Uint16(p[head+3:]))
	var at []int
	for i := range count {
		pointer := head + size + 2*i
		if pointer+2 > pageSize {
			break
		}
		if c := int(binary.BigEndian.Uint16(p[pointer:])); c >= head+size && c < pageSize {
			at = append(at, c)
		}
	}
	return at
}

// leaf reads the rows of a leaf of a table.
func (w *walker) leaf(p []byte, head int) {
	for _, at := range cells(p, head, 8) {
		length, n := varint(p[at:])
		if n == 0 || length > uint64(w.im.bytes) {
			continue
		}
		at += n
		rowid, n := varint(p[at:])
		if n == 0 {
			continue
		}
		at += n
		payload, ok := w.payload(p, at, int(length))
		if !ok {
			continue
		}
		values, ok := record(payload)
		if !ok {
			continue
		}
		if w.err = w.row(int64(rowid), values); w.err != nil {
			return
		}
	}
}

// payload collects a cell's content from its page and its overflow pages.
func (w *walker) payload(p []byte, at, length int) ([]byte, bool) {
	local := length
	if length > pageSize-35 {
		least := (pageSize-12)*32/255 - 23
		local = least + (length-least)%(pageSize-4)
		if local > pageSize-35 {
			local = least
		}
	}
	if at+local > pageSize {
		return nil, false
	}
	if local == length {
		return p[at : at+local], true
	}
	if at+local+4 > pageSize {
		return nil, false
	}
	content := append(make([]byte, 0, local+pageSize), p[at:at+local]...)
	next := binary.BigEndian.Uint32(p[at+local:])
	for len(content) < length {
		o, ok := w.im.page(next)
		if !ok {
			return nil, false
		}
		next = binary.BigEndian.Uint32(o)
		content = append(content, o[4:4+min(pageSize-4, length-len(content))]...)
	}
	return content, true
}

// freelist marks the pages that are free: what is on them was deleted.
func (w *walker) freelist() {
	p, ok := w.im.page(1)
	if !ok {
		return
	}
	for trunk := binary.BigEndian.Uint32(p[32:]); trunk > 1 && !w.seen[trunk]; {
		w.seen[trunk] = true
		if p, ok = w.im.page(trunk); !ok {
			return
		}
		count := binary.BigEndian.Uint32(p[4:])
		if count > pageSize/4-2 {
			return
		}
		for i := range int(count) {
			w.seen[binary.BigEndian.Uint32(p[8+4*i:])] = true
		}
		trunk = binary.BigEndian.Uint32(p)
	}
}

// varint reads a big-endian base-128 number of up to nine bytes; n is 0 if it
// is cut off.
func varint(p []byte) (v uint64, n int) {
	for i := range min(len(p), 9) {
		if i == 8 {
			return v<<8 | uint64(p[i]), 9
		}
		v = v<<7 | uint64(p[i]&0x7f)
		if p[i] < 0x80 {
			return v, i + 1
		}
	}
	return 0, 0
}

// record reads a record: a header of serial types, then the values. Strings and
// blobs point into p.
func record(p []byte) ([]driver.Value, bool) {
	size, n := varint(p)
	if n == 0 || size < uint64(n) || size > uint64(len(p)) {
		return nil, false
	}
	header, body := p[n:size], p[size:]
	var values []driver.Value
	for len(header) > 0 {
		t, n := varint(header)
		if n == 0 || len(values) > 64 {
			return nil, false
		}
		header = header[n:]
		v, used, ok := value(t, body)
		if !ok {
			return nil, false
		}
		values = append(values, v)
		body = body[used:]
	}
	return values, true
}

// value reads a value of a serial type from the beginning of p.
func value(t uint64, p []byte) (v driver.Value, used int, ok bool) {
	switch {
	case t == 0:
		return nil, 0, true
	case t == 8 || t == 9:
		return int64(t - 8), 0, true
	case t <= 6:
		size := [...]int{0, 1, 2, 3, 4, 6, 8}[t]
		if len(p) < size {
			return nil, 0, false
		}
		n := int64(int8(p[0]))
		for _, b := range p[1:size] {
			n = n<<8 | int64(b)
		}
		return n, size, true
	case t == 7:
		if len(p) < 8 {
			return nil, 0, false
		}
		return math.Float64frombits(binary.BigEndian.Uint64(p)), 8, true
	case t < 12:
		return nil, 0, false
	}
	size := (t - 12) / 2
	if size > uint64(len(p)) {
		return nil, 0, false
	}
	if t%2 == 1 {
		return string(p[:size]), int(size), true
	}
	return p[:size:size], int(size), true
}
