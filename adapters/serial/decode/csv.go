package decode

import (
	"bytes"
)

// csv is the format of cells by position.
type csv struct {
	columns   []value
	separator string
	run       bool   // any run of spaces and tabs separates
	blanks    string // what is trimmed from cells: not what separates
	unquoted  []byte // the quoted cell at hand
}

func (c *csv) decode(b []byte, o *object) *Error {
	if err := checkText(b); err != nil {
		return err
	}
	rest := bytes.TrimRight(b, "\r\n")
	if c.run {
		rest = trimBlanks(rest)
	}
	n := 0
	for more := true; more; n++ {
		if n == len(c.columns) {
			return refuse(BadFields, "the frame has more than the %d cells that columns names", len(c.columns))
		}
		var cell []byte
		var quoted bool
		var err *Error
		cell, quoted, rest, more, err = c.next(rest, n)
		if err != nil {
			return err
		}
		if err := c.add(o, n, cell, quoted); err != nil {
			return err
		}
	}
	if n < len(c.columns) {
		return refuse(BadFields, "the frame has %d cells, columns names %d", n, len(c.columns))
	}
	return nil
}

// add writes a cell unless it is empty. A quoted one is text unless declared as
// a number.
func (c *csv) add(o *object, n int, cell []byte, quoted bool) *Error {
	v := c.columns[n]
	if v.key == "" || len(cell) == 0 && (!quoted || v.kind == TypeNumber) {
		return nil
	}
	if quoted && v.kind == "" {
		v.kind = TypeText
	}
	return v.add(o, cell)
}

// next cuts off a cell, the n-th, and reports whether another one follows.
func (c *csv) next(b []byte, n int) (cell []byte, quoted bool, rest []byte, more bool, err *Error) {
	b = bytes.TrimLeft(b, c.blanks)
	if len(b) > 0 && b[0] == '"' {
		cell, rest, err = c.quoted(b[1:], n)
		if err != nil {
			return nil, false, nil, false, err
		}
		rest = bytes.TrimLeft(rest, c.blanks)
		before, after, more := c.cut(rest)
		if len(before) > 0 {
			return nil, false, nil, false, refuse(BadFields, "cell %d: %s behind its closing quote", n+1, excerpt(before))
		}
		return cell, true, after, more, nil
	}
	cell, rest, more = c.cut(b)
	if i := bytes.IndexByte(cell, '"'); i >= 0 {
		return nil, false, nil, false, refuse(BadFields, "cell %d has a quote inside, and none around it", n+1)
	}
	return bytes.TrimRight(cell, c.blanks), false, rest, more, nil
}

// quoted reads up to the closing quote; two quotes are one (RFC 4180 section
// 2.7).
func (c *csv) quoted(b []byte, n int) (cell, rest []byte, err *Error) {
	c.unquoted = c.unquoted[:0]
	for {
		i := bytes.IndexByte(b, '"')
		if i < 0 {
			return nil, nil, refuse(BadFields, "cell %d has no closing quote", n+1)
		}
		c.unquoted = append(c.unquoted, b[:i]...)
		b = b[i+1:]
		if len(b) == 0 || b[0] != '"' {
			return c.unquoted, b, nil
		}
		c.unquoted = append(c.unquoted, '"')
		b = b[1:]
	}
}

// cut cuts b at its first separator.
func (c *csv) cut(b []byte) (before, after []byte, found bool) {
	return cutAt(b, c.separator, c.run)
}

// cutAt cuts b at its first separator, or run of blanks.
func cutAt(b []byte, separator string, run bool) (before, after []byte, found bool) {
	if run {
		i := bytes.IndexAny(b, " \t")
		if i < 0 {
			return b, nil, false
		}
		return b[:i], bytes.TrimLeft(b[i:], " \t"), true
	}
	if len(separator) == 1 {
		if i := bytes.IndexByte(b, separator[0]); i >= 0 {
			return b[:i], b[i+1:], true
		}
		return b, nil, false
	}
	i := bytes.Index(b, []byte(separator))
	if i < 0 {
		return b, nil, false
	}
	return b[:i], b[i+len(separator):], true
}
