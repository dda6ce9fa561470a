package modbus

import (
	"cmp"
	"slices"
)

// block is one request and the registers that it reads.
type block struct {
	function   Function
	start, end int         // addresses; end is behind the last
	registers  []*register // by address
	gaps       bool        // it reads addresses that are nobody's
}

func (b *block) request(slave byte) *Request {
	return &Request{Slave: slave, Function: b.function, Address: uint16(b.start), Count: uint16(b.end - b.start)}
}

// slice is the part of the block's answer that is r's.
func (b *block) slice(r *register, a Answer) Answer {
	from, to := r.address-b.start, r.end()-b.start
	if b.function.bits() {
		return Answer{Bits: a.Bits[from:to]}
	}
	return Answer{Words: a.Words[from:to]}
}

// group puts registers into few requests: those of one function whose addresses
// have at most gap others between them, up to limit values in a request.
func group(registers []*register, gap int, limit func(Function) int) []*block {
	sorted := slices.Clone(registers)
	slices.SortStableFunc(sorted, func(a, b *register) int {
		return cmp.Or(cmp.Compare(a.function, b.function), cmp.Compare(a.address, b.address), cmp.Compare(a.size, b.size))
	})
	var blocks []*block
	var last *block
	for _, r := range sorted {
		if last == nil || last.function != r.function || r.address > last.end+gap ||
			max(last.end, r.end())-last.start > limit(r.function) {
			last = &block{function: r.function, start: r.address, end: r.end()}
			blocks = append(blocks, last)
		}
		last.gaps = last.gaps || r.address > last.end
		last.end = max(last.end, r.end())
		last.registers = append(last.registers, r)
	}
	return blocks
}

// split returns smaller blocks for one that the slave refused: without gaps if
// it had some, else one for each register. A block that cannot be split gives
// none.
func (b *block) split() []*block {
	var parts []*block
	if b.gaps {
		parts = group(b.registers, 0, func(Function) int { return b.end - b.start })
	} else {
		for _, r := range b.registers {
			// Registers of one place, such as bits of one word, stay together.
			if n := len(parts); n > 0 && parts[n-1].start == r.address && parts[n-1].end == r.end() {
				parts[n-1].registers = append(parts[n-1].registers, r)
				continue
			}
			parts = append(parts, &block{function: r.function, start: r.address, end: r.end(), registers: []*register{r}})
		}
	}
	if len(parts) < 2 {
		return nil
	}
	return parts
}
