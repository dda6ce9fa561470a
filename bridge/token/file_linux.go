package token

import (
	"syscall"
	"time"
)

// changed is when the file's inode was changed last (stat(2), st_ctim). Its
// fields have another width on 32-bit machines.
func changed(st *syscall.Stat_t) time.Time { return time.Unix(st.Ctim.Unix()) }
