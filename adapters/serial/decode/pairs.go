package decode

import (
	"bytes"
	"regexp"
)

// keyValue is the format of pairs. Keys come in the frame's order.
type keyValue struct {
	separator, assign string
	types             map[string]string
	key               []byte // the key at hand, as JSON
}

func (k *keyValue) decode(b []byte, o *object) *Error {
	if err := checkText(b); err != nil {
		return err
	}
	rest, more := bytes.TrimRight(b, "\r\n"), true
	run := k.separator == " "
	for n := 1; more; n++ {
		var pair []byte
		pair, rest, more = cutAt(rest, k.separator, run)
		pair = trimBlanks(pair)
		if len(pair) == 0 { // devices end the last pair, too
			continue
		}
		if err := k.pair(pair, n, o); err != nil {
			return err
		}
	}
	return nil
}

func (k *keyValue) pair(pair []byte, n int, o *object) *Error {
	key, text, found := cutAt(pair, k.assign, false)
	if !found {
		return refuse(BadFields, "pair %d has no %q: %s", n, k.assign, excerpt(pair))
	}
	key, text = trimBlanks(key), trimBlanks(text)
	if len(key) == 0 || len(key) > maxName {
		return refuse(BadFields, "pair %d: a key has 1 to %d bytes (got %d)", n, maxName, len(key))
	}
	if len(text) == 0 {
		return nil
	}
	if len(o.members) == maxNames {
		return refuse(BadFields, "the frame has more than %d pairs", maxNames)
	}
	k.key = appendString(k.key[:0], key)
	for _, m := range o.members {
		if bytes.Equal(o.buf[m.key:m.keyEnd], k.key) {
			return refuse(BadFields, "pair %d: the key %s is there twice", n, excerpt(key))
		}
	}
	v := value{kind: k.types[string(key)]}
	o.beginBytes(k.key)
	ok := true
	if o.buf, ok = appendTyped(o.buf, text, v.kind); !ok {
		return refuse(BadNumber, "%s is not a number: %s", excerpt(key), excerpt(text))
	}
	return o.end()
}

// pattern is the format of a regular expression's named groups.
type pattern struct {
	re     *regexp.Regexp
	groups []value // by number; those without a name have no key
}

func (p *pattern) decode(b []byte, o *object) *Error {
	if err := checkText(b); err != nil {
		return err
	}
	at := p.re.FindSubmatchIndex(b)
	if at == nil {
		return refuse(NoMatch, "the pattern does not match a frame of %d bytes that begins with %s", len(b), excerpt(b[:min(len(b), 24)]))
	}
	for i := range p.groups {
		g := &p.groups[i]
		from, to := at[2*i], at[2*i+1]
		if g.key == "" || from == to { // of no part in the match, or empty
			continue
		}
		if err := g.add(o, b[from:to]); err != nil {
			return err
		}
	}
	return nil
}
