package spool

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// A seqList is a sorted list of numbers.
func TestSeqList(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var l seqList
		var model []int64
		last := int64(0)
		for range rapid.IntRange(0, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 2).Draw(t, "what") {
			case 0:
				for range rapid.IntRange(1, 400).Draw(t, "adds") {
					last += rapid.Int64Range(1, 5).Draw(t, "distance")
					if rapid.IntRange(0, 500).Draw(t, "gap") == 0 {
						last += 1 << 40
					}
					l.add(last)
					model = append(model, last)
				}
			case 1:
				for range rapid.IntRange(1, 200).Draw(t, "removals") {
					seq := rapid.Int64Range(0, last+1).Draw(t, "seq")
					if len(model) > 0 && rapid.Bool().Draw(t, "there") {
						seq = model[rapid.IntRange(0, len(model)-1).Draw(t, "place")]
					}
					l.remove(seq)
					if i, ok := slices.BinarySearch(model, seq); ok {
						model = slices.Delete(model, i, i+1)
					}
				}
			case 2:
				for len(model) > 0 && rapid.IntRange(0, 300).Draw(t, "more") > 0 {
					l.remove(model[0])
					model = model[1:]
				}
			}
			after := rapid.Int64Range(-1, last+1).Draw(t, "after")
			limit := rapid.IntRange(1, 700).Draw(t, "limit")
			i, ok := slices.BinarySearch(model, after)
			if ok {
				i++
			}
			want := model[i:min(len(model), i+limit)]
			if got := l.after(after, limit); !slices.Equal(got, want) {
				t.Fatalf("after %d: %v, want %v", after, got, want)
			}
			first := int64(0)
			if len(model) > 0 {
				first = model[0]
			}
			if l.first() != first {
				t.Fatalf("first: %d, want %d", l.first(), first)
			}
		}
	})
}
