package spool

import (
	"context"
	"database/sql/driver"
	"errors"
	"fmt"
	"io"
	"net/url"

	"modernc.org/sqlite"
)

// errStop ends a query early and is not an error.
var errStop = errors.New("stop")

// conn is one connection to the database. It is driven without database/sql,
// whose locking and conversions cost more than the statements here. One
// goroutine uses it at a time.
type conn struct {
	c     driver.Conn
	stmts map[string]*stmt
	args  []driver.NamedValue
}

type stmt struct {
	driver.Stmt
	row []driver.Value
}

type connOptions struct {
	readOnly bool // the file is opened for reading only
	vfs      string
	pragmas  []string // in this order
}

func openConn(path string, o connOptions) (*conn, error) {
	q := url.Values{}
	if o.readOnly {
		q.Set("mode", "ro")
	} else {
		q.Set("mode", "rw") // the file is created by us, with our permissions
	}
	if o.vfs != "" {
		q.Set("vfs", o.vfs)
	}
	dsn := (&url.URL{Scheme: "file", Path: path, RawQuery: q.Encode()}).String()
	connector, err := sqlite.NewConnector(dsn)
	if err != nil {
		return nil, err
	}
	c, err := connector.Connect(context.Background())
	if err != nil {
		return nil, err
	}
	conn := &conn{c: c, stmts: make(map[string]*stmt)}
	for _, p := range o.pragmas { // the driver would sort them
		if err := conn.script("PRAGMA " + p); err != nil {
			return nil, errors.Join(err, conn.close())
		}
	}
	return conn, nil
}

func (c *conn) close() error {
	var errs []error
	for _, s := range c.stmts {
		errs = append(errs, s.Close())
	}
	return errors.Join(append(errs, c.c.Close())...)
}

// prepared returns the statement for query, which stays prepared: the texts are
// constants of this package.
func (c *conn) prepared(query string) (*stmt, error) {
	if s := c.stmts[query]; s != nil {
		return s, nil
	}
	ds, err := c.c.(driver.ConnPrepareContext).PrepareContext(context.Background(), query)
	if err != nil {
		return nil, err
	}
	s := &stmt{Stmt: ds}
	c.stmts[query] = s
	return s, nil
}

// named numbers the arguments, each an int64, a string, a []byte or nil.
func (c *conn) named(args []any) []driver.NamedValue {
	c.args = c.args[:0]
	for i, a := range args {
		c.args = append(c.args, driver.NamedValue{Ordinal: i + 1, Value: a})
	}
	return c.args
}

// exec runs a statement to its end.
func (c *conn) exec(query string, args ...any) error {
	s, err := c.prepared(query)
	if err != nil {
		return err
	}
	_, err = s.Stmt.(driver.StmtExecContext).ExecContext(context.Background(), c.named(args))
	return err
}

// query calls each with every row. The slice is used again for the next row,
// the values in it are not.
func (c *conn) query(query string, each func(row []driver.Value) error, args ...any) (err error) {
	s, err := c.prepared(query)
	if err != nil {
		return err
	}
	rows, err := s.Stmt.(driver.StmtQueryContext).QueryContext(context.Background(), c.named(args))
	if err != nil {
		return err
	}
	defer func() {
		if cerr := rows.Close(); err == nil {
			err = cerr
		}
	}()
	if s.row == nil {
		s.row = make([]driver.Value, len(rows.Columns()))
	}
	for {
		switch err := rows.Next(s.row); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		switch err := each(s.row); {
		case errors.Is(err, errStop):
			return nil
		case err != nil:
			return err
		}
	}
}

// integer returns the first column of the first row, 0 if it is NULL or if
// there is no row.
func (c *conn) integer(query string, args ...any) (n int64, err error) {
	err = c.query(query, func(row []driver.Value) error {
		n = asInt(row[0])
		return errStop
	}, args...)
	return n, err
}

// script runs statements that are used once.
func (c *conn) script(text string) error {
	ds, err := c.c.(driver.ConnPrepareContext).PrepareContext(context.Background(), text)
	if err != nil {
		return err
	}
	_, err = ds.(driver.StmtExecContext).ExecContext(context.Background(), nil)
	return errors.Join(err, ds.Close())
}

// pagesWritten counts the pages that this connection has written to the log.
func (c *conn) pagesWritten() int64 {
	n, _, err := c.c.(sqlite.DBStatus).Status(sqlite.DBStatusCacheWrite, false)
	if err != nil {
		return 0
	}
	return int64(n)
}

func asInt(v driver.Value) int64 {
	n, _ := v.(int64)
	return n
}

func asString(v driver.Value) string {
	switch v := v.(type) {
	case string:
		return v
	case []byte:
		return string(v)
	}
	return ""
}

func asBytes(v driver.Value) []byte {
	switch v := v.(type) {
	case []byte:
		return v
	case string:
		return []byte(v)
	}
	return nil
}

// resultCode is SQLite's primary result code of an error, or -1
// (https://www.sqlite.org/rescode.html).
func resultCode(err error) int {
	var e *sqlite.Error
	if !errors.As(err, &e) {
		return -1
	}
	return e.Code() & 0xff
}

func wrap(operation string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("spool: %s: %w", operation, err)
}
