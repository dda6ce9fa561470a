package spool

import (
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"unsafe"

	"modernc.org/libc"
	sqlite3 "modernc.org/sqlite/lib"
)

// disk is a VFS for SQLite: the ordinary one, watched. It writes down each
// change that SQLite makes to its files, in order and with its data, and can let
// one fail. The shared memory beside the log is not part of it: SQLite makes
// that anew when it opens the files after a crash.
type disk struct {
	name string
	tls  *libc.TLS
	vfs  *sqlite3.Tsqlite3_vfs
	orig sqlite3.Tsqlite3_vfs

	// fail, if set, is asked before each change and returns SQLite's result
	// code, 0 to let it happen.
	fail func(kind diskKind, file string) int32

	mu      sync.Mutex // guards what follows
	log     []diskOp
	silent  bool                     // log nothing
	open    map[uintptr]string       // sqlite3_file to the file's name
	methods map[uintptr]*diskMethods // of the ordinary VFS to ours
	keep    []any                    // functions that C memory points to
	byFile  map[uintptr]*diskMethods // sqlite3_file to its methods
}

type diskKind int

const (
	diskWrite diskKind = iota
	diskTruncate
	diskSync
	diskDelete
	diskCreate
	diskNote // not a change: something the test wants in the order
)

type diskOp struct {
	kind diskKind
	file string
	at   int64 // offset, or the new size
	data []byte
	note any
}

type diskMethods struct {
	orig  sqlite3.Tsqlite3_io_methods
	patch uintptr // a sqlite3_io_methods in C memory
}

// diskNo makes the names of VFSs unique within the process: SQLite keeps them.
var diskNo atomic.Int64

// newDisk registers a VFS for the duration of a test.
func newDisk(t testing.TB) *disk {
	d := &disk{
		name:    fmt.Sprint("watched-", diskNo.Add(1)),
		tls:     libc.NewTLS(),
		open:    make(map[uintptr]string),
		methods: make(map[uintptr]*diskMethods),
		byFile:  make(map[uintptr]*diskMethods),
	}
	d.orig = *(*sqlite3.Tsqlite3_vfs)(pointer(sqlite3.Xsqlite3_vfs_find(d.tls, 0)))
	p := libc.Xmalloc(d.tls, libc.Tsize_t(unsafe.Sizeof(d.orig)))
	name, err := libc.CString(d.name)
	if p == 0 || err != nil {
		t.Fatal("no memory for a VFS", err)
	}
	d.vfs = (*sqlite3.Tsqlite3_vfs)(pointer(p))
	*d.vfs = d.orig
	d.vfs.FpNext = 0
	d.vfs.FzName = name
	d.vfs.FxOpen = function(d, d.xOpen)
	d.vfs.FxDelete = function(d, d.xDelete)
	if rc := sqlite3.Xsqlite3_vfs_register(d.tls, p, 0); rc != 0 {
		t.Fatal("register VFS: ", rc)
	}
	t.Cleanup(func() {
		sqlite3.Xsqlite3_vfs_unregister(d.tls, p)
		libc.Xfree(d.tls, name)
		libc.Xfree(d.tls, p)
		for _, m := range d.methods {
			libc.Xfree(d.tls, m.patch)
		}
		d.tls.Close()
	})
	return d
}

// pointer turns an address in C memory into a pointer.
func pointer(p uintptr) unsafe.Pointer { return *(*unsafe.Pointer)(unsafe.Pointer(&p)) }

// function turns a Go function into what translated C code calls.
func function[F any](d *disk, f F) uintptr {
	p := &struct{ f F }{f}
	d.keep = append(d.keep, p)
	return *(*uintptr)(unsafe.Pointer(p))
}

// call is the way back.
func call[F any](p uintptr) F {
	return *(*F)(unsafe.Pointer(&struct{ p uintptr }{p}))
}

func (d *disk) do(op diskOp) int32 {
	if d.fail != nil {
		if rc := d.fail(op.kind, op.file); rc != 0 {
			return rc
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.silent {
		op.data = slices.Clone(op.data)
		d.log = append(d.log, op)
	}
	return 0
}

// note puts something into the order of the changes.
func (d *disk) note(v any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.log = append(d.log, diskOp{kind: diskNote, note: v})
}

func (d *disk) ops() []diskOp {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.log)
}

func (d *disk) xOpen(tls *libc.TLS, vfs, path, file uintptr, flags int32, out uintptr) int32 {
	name := ""
	if path != 0 {
		name = filepath.Base(libc.GoString(path))
	}
	if flags&sqlite3.SQLITE_OPEN_CREATE != 0 {
		if rc := d.do(diskOp{kind: diskCreate, file: name}); rc != 0 {
			return rc
		}
	}
	rc := call[func(*libc.TLS, uintptr, uintptr, uintptr, int32, uintptr) int32](d.orig.FxOpen)(tls, vfs, path, file, flags, out)
	f := (*sqlite3.Tsqlite3_file)(pointer(file))
	if rc != 0 || f.FpMethods == 0 || flags&(sqlite3.SQLITE_OPEN_MAIN_DB|sqlite3.SQLITE_OPEN_WAL) == 0 {
		return rc
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	m := d.methods[f.FpMethods]
	if m == nil {
		m = &diskMethods{orig: *(*sqlite3.Tsqlite3_io_methods)(pointer(f.FpMethods))}
		m.patch = libc.Xmalloc(tls, libc.Tsize_t(unsafe.Sizeof(m.orig)))
		p := (*sqlite3.Tsqlite3_io_methods)(pointer(m.patch))
		*p = m.orig
		p.FxWrite = function(d, d.xWrite)
		p.FxTruncate = function(d, d.xTruncate)
		p.FxSync = function(d, d.xSync)
		d.methods[f.FpMethods] = m
	}
	f.FpMethods = m.patch
	d.open[file], d.byFile[file] = name, m
	return rc
}

func (d *disk) of(file uintptr) (string, *sqlite3.Tsqlite3_io_methods) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.open[file], &d.byFile[file].orig
}

func (d *disk) xWrite(tls *libc.TLS, file, buf uintptr, n int32, at sqlite3.Tsqlite3_int64) int32 {
	name, m := d.of(file)
	if rc := d.do(diskOp{kind: diskWrite, file: name, at: int64(at), data: unsafe.Slice((*byte)(pointer(buf)), n)}); rc != 0 {
		return rc
	}
	return call[func(*libc.TLS, uintptr, uintptr, int32, sqlite3.Tsqlite3_int64) int32](m.FxWrite)(tls, file, buf, n, at)
}

func (d *disk) xTruncate(tls *libc.TLS, file uintptr, size sqlite3.Tsqlite3_int64) int32 {
	name, m := d.of(file)
	if rc := d.do(diskOp{kind: diskTruncate, file: name, at: int64(size)}); rc != 0 {
		return rc
	}
	return call[func(*libc.TLS, uintptr, sqlite3.Tsqlite3_int64) int32](m.FxTruncate)(tls, file, size)
}

// xSync is written down after it was done: what was written while it ran may
// not be part of it.
func (d *disk) xSync(tls *libc.TLS, file uintptr, flags int32) int32 {
	name, m := d.of(file)
	if d.fail != nil {
		if rc := d.fail(diskSync, name); rc != 0 {
			return rc
		}
	}
	d.mu.Lock()
	begun := len(d.log)
	d.mu.Unlock()
	rc := call[func(*libc.TLS, uintptr, int32) int32](m.FxSync)(tls, file, flags)
	if rc == 0 {
		d.mu.Lock()
		d.log = append(d.log, diskOp{kind: diskSync, file: name, at: int64(begun)})
		d.mu.Unlock()
	}
	return rc
}

func (d *disk) xDelete(tls *libc.TLS, vfs, path uintptr, syncDir int32) int32 {
	if rc := d.do(diskOp{kind: diskDelete, file: filepath.Base(libc.GoString(path))}); rc != 0 {
		return rc
	}
	return call[func(*libc.TLS, uintptr, uintptr, int32) int32](d.orig.FxDelete)(tls, vfs, path, syncDir)
}
