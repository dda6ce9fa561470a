package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/spf13/cobra"

	"fieldbridge/bridge/spool"
)

// deadAction is what can be done with dead letters.
type deadAction struct {
	use, short, long string
	done             string // what it says of each letter
	do               func(*spool.Editor, []int64) error
}

var (
	retryDead = deadAction{
		use: "retry", short: "Put dead letters back into their queues",
		long: `Put dead letters back into their queues, behind what waits there. A running
gateway sends them within seconds, another one when it is started. What is refused
again becomes a dead letter again, with another number.`,
		done: "back in its queue",
		do:   (*spool.Editor).Retry,
	}
	dropDead = deadAction{
		use: "drop", short: "Delete dead letters for good",
		long: "Delete dead letters for good. There is no question first.",
		done: "deleted",
		do:   (*spool.Editor).Drop,
	}
)

func newDeadCommand(at *spoolPlace, action deadAction) *cobra.Command {
	var all bool
	c := &cobra.Command{
		Use:   action.use + " NUMBER... | --all",
		Short: action.short,
		Long:  action.long,
		Example: fmt.Sprintf("  fieldbridge spool %[1]s 12 13\n  fieldbridge spool %[1]s --all --config /etc/fieldbridge/fieldbridge.toml",
			action.use),
		Args: func(c *cobra.Command, args []string) error {
			if all != (len(args) == 0) {
				return usagef("give the numbers of dead letters, as \"fieldbridge spool dead\" shows them, or --all\nsee %s --help", c.CommandPath())
			}
			return nil
		},
		RunE: func(c *cobra.Command, args []string) error {
			numbers, err := parseNumbers(args)
			if err != nil {
				return err
			}
			return actOnDead(c.OutOrStdout(), at, action, numbers)
		},
	}
	c.Flags().BoolVar(&all, "all", false, "all dead letters")
	return c
}

// parseNumbers returns the numbers in order, each once.
func parseNumbers(args []string) ([]int64, error) {
	var numbers []int64
	for _, a := range args {
		n, err := strconv.ParseInt(a, 10, 64)
		if err != nil || n <= 0 {
			return nil, usagef("%q is not the number of a dead letter; \"fieldbridge spool dead\" shows them", a)
		}
		numbers = append(numbers, n)
	}
	slices.Sort(numbers)
	return slices.Compact(numbers), nil
}

// deadBatch is how many dead letters one transaction takes: a running gateway
// cannot write meanwhile.
const deadBatch = 100

// actOnDead treats the dead letters with these numbers, or all if there is none.
// Of numbers that were given, all must be there.
func actOnDead(out io.Writer, at *spoolPlace, action deadAction, numbers []int64) error {
	var list []deadDocument
	err := at.read(func(r *spool.Reader) (err error) {
		list, err = findDead(r, numbers)
		return err
	})
	if err != nil {
		return err
	}
	if len(list) == 0 {
		fmt.Fprintln(out, "there are no dead letters")
		return nil
	}
	dir, err := at.stateDir()
	if err != nil {
		return err
	}
	e, err := spool.OpenEditor(dir)
	if err != nil {
		return err
	}
	defer func() { _ = e.Close() }() // what it did is durable
	for batch := range slices.Chunk(list, deadBatch) {
		err := actOnBatch(e, action, batch, func(d deadDocument) {
			fmt.Fprintf(out, "%d  %s of %s: %s\n", d.Number, d.Kind, shown(string(d.Device)), action.done)
		})
		// One that has gone since it was listed is no mistake of who said --all.
		if err != nil && !(numbers == nil && errors.Is(err, spool.ErrNotThere)) {
			return err
		}
	}
	return nil
}

// actOnBatch treats a batch at once or, if one of it has gone meanwhile, the
// others one by one.
func actOnBatch(e *spool.Editor, action deadAction, batch []deadDocument, done func(deadDocument)) error {
	numbers := make([]int64, 0, len(batch))
	for _, d := range batch {
		numbers = append(numbers, d.Number)
	}
	err := action.do(e, numbers)
	if err == nil {
		for _, d := range batch {
			done(d)
		}
		return nil
	}
	if !errors.Is(err, spool.ErrNotThere) || len(batch) == 1 {
		return err
	}
	for i := range batch {
		if oneErr := actOnBatch(e, action, batch[i:i+1], done); oneErr != nil && !errors.Is(oneErr, spool.ErrNotThere) {
			return oneErr
		}
	}
	return err
}

// findDead looks up dead letters by their numbers, which are in order, or all.
func findDead(r *spool.Reader, numbers []int64) (list []deadDocument, err error) {
	after := int64(0)
	if len(numbers) > 0 {
		after = numbers[0] - 1
	}
	left := numbers
	err = r.DeadLetters(after, func(l spool.DeadLetter) error {
		if numbers != nil {
			if len(left) == 0 || l.No > left[0] {
				return errStop
			}
			if l.No < left[0] {
				return nil
			}
			left = left[1:]
		}
		list = append(list, newDeadDocument(&l))
		return nil
	})
	if err != nil && !errors.Is(err, errStop) {
		return nil, err
	}
	if len(left) > 0 {
		return nil, fmt.Errorf("dead letter %d: %w; nothing was done", left[0], spool.ErrNotThere)
	}
	return list, nil
}

// errStop ends a listing early.
var errStop = errors.New("stop")
