package config

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The parser's own decoder stops at the first value of a wrong type. Here the
// tree of values is laid over the raw structs key by key, and every key that
// does not fit is a mistake of its own.

// prepare sets the place and the defaults of a raw struct.
func (s *source) prepare(raw reflect.Value, path string) {
	if d, ok := raw.Addr().Interface().(interface{ setDefaults() }); ok {
		d.setDefaults()
	}
	s.locate(raw, path)
}

// locate sets the place of a raw struct and of the tables in it.
func (s *source) locate(raw reflect.Value, path string) {
	raw.FieldByName("In").Set(reflect.ValueOf(place{src: s, path: path}))
	t := raw.Type()
	for i := range t.NumField() {
		if key := tag(t.Field(i)); key != "" && raw.Field(i).Kind() == reflect.Struct {
			s.locate(raw.Field(i), joinPath(path, key))
		}
	}
}

// table decodes one table into a raw struct.
func (s *source) table(path string, values map[string]any, raw reflect.Value) {
	t := raw.Type()
	fields := make(map[string]int, t.NumField())
	for i := range t.NumField() {
		if k := tag(t.Field(i)); k != "" {
			fields[k] = i
		}
	}
	for _, key := range slices.Sorted(maps.Keys(values)) {
		full := joinPath(path, quoteKey(key))
		i, known := fields[key]
		switch {
		case !known:
			s.unknown(path, key, t, values)
		case s.included && path == "" && !slices.Contains(includable, key):
			s.wrong(full, "is not allowed in an included file", "only [[connector]], [[device]] and [[serial]] blocks are; move it to the main file")
		default:
			s.given[full] = true
			s.value(full, values[key], raw.Field(i))
		}
	}
}

// value decodes one value into a field of a raw struct.
func (s *source) value(path string, v any, field reflect.Value) {
	switch dst := field.Addr().Interface().(type) {
	case *string:
		if str, ok := v.(string); ok {
			*dst = str
			return
		}
		s.wrongType(path, "text", v, "write it in double quotes")
	case *bool:
		if b, ok := v.(bool); ok {
			*dst = b
			return
		}
		s.wrongType(path, "true or false", v, "write it without quotes")
	case **bool:
		if b, ok := v.(bool); ok {
			*dst = &b
			return
		}
		s.wrongType(path, "true or false", v, "write it without quotes")
	case **int64:
		*dst = new(int64)
		s.value(path, v, field.Elem())
	case *int64:
		if n, ok := v.(int64); ok {
			*dst = n
			return
		}
		hint := ""
		if str, ok := v.(string); ok {
			if n, err := strconv.Atoi(str); err == nil {
				hint = fmt.Sprintf("write %d without quotes", n)
			}
		}
		s.wrongType(path, "a whole number", v, hint)
	case *time.Duration:
		s.duration(path, v, dst)
	case *Size:
		s.size(path, v, dst)
	case *optionalSize:
		if v == "" {
			*dst = noSize
			return
		}
		s.size(path, v, (*Size)(dst))
	case *[]string:
		s.texts(path, v, dst)
	case *map[string]string:
		s.textTable(path, v, dst)
	case *map[string]any:
		if values, ok := v.(map[string]any); ok {
			*dst = values
			return
		}
		s.wrongType(path, "a table", v, `such as { role = "sensor" }`)
	default:
		if field.Kind() == reflect.Slice {
			s.blocks(path, v, field)
			return
		}
		if values, ok := v.(map[string]any); ok {
			s.table(path, values, field)
			return
		}
		name := path[strings.LastIndexByte(path, '.')+1:]
		if slices.Contains(inlineSecrets, name) {
			s.inlineSecret(path)
			return
		}
		s.wrongType(path, "a table", v, fmt.Sprintf("write it as [%s]", blockOf(path)))
	}
}

func (s *source) duration(path string, v any, dst *time.Duration) {
	const hint = `write a number with its unit (ms, s, m, h), such as "30s"`
	str, ok := v.(string)
	if !ok {
		s.wrongType(path, "a duration in quotes", v, hint)
		return
	}
	d, err := time.ParseDuration(str)
	if err != nil {
		s.wrong(path, fmt.Sprintf("%q is not a duration", str), hint)
		return
	}
	*dst = d
}

func (s *source) size(path string, v any, dst *Size) {
	const hint = `write a whole number with its unit (B, KiB, MiB, GiB), such as "64MiB"`
	str, ok := v.(string)
	if !ok {
		s.wrongType(path, "a size in quotes", v, hint)
		return
	}
	n, err := ParseSize(str)
	if err != nil {
		s.wrong(path, strings.TrimPrefix(err.Error(), "parse size: "), hint)
		return
	}
	*dst = n
}

func (s *source) texts(path string, v any, dst *[]string) {
	const hint = `such as ["one", "two"]`
	list, ok := v.([]any)
	if !ok {
		s.wrongType(path, "an array of texts", v, hint)
		return
	}
	for i, e := range list {
		str, ok := e.(string)
		if !ok {
			s.wrongType(element(path, i), "text", e, "write it in double quotes")
		}
		*dst = append(*dst, str)
	}
}

// textTable decodes a table with any keys.
func (s *source) textTable(path string, v any, dst *map[string]string) {
	table, ok := v.(map[string]any)
	if !ok {
		s.wrongType(path, "a table", v, `such as { name = "text" }`)
		return
	}
	*dst = make(map[string]string, len(table))
	for _, key := range slices.Sorted(maps.Keys(table)) {
		str, ok := table[key].(string)
		if !ok {
			s.wrongType(joinPath(path, quoteKey(key)), "text", table[key], "write it in double quotes")
		}
		(*dst)[key] = str
	}
}

// blocks decodes an array of tables, in either of its two spellings.
func (s *source) blocks(path string, v any, field reflect.Value) {
	hint := fmt.Sprintf("write each as a block that starts with [[%s]]", blockOf(path))
	var list []any
	switch v := v.(type) {
	case []map[string]any:
		for _, e := range v {
			list = append(list, e)
		}
	case []any:
		list = v
	case map[string]any:
		elem := reflect.New(field.Type().Elem())
		if _, ok := elem.Interface().(interface{ standsAlone() }); ok {
			s.prepare(elem.Elem(), path)
			s.table(path, v, elem.Elem())
			field.Set(reflect.Append(field, elem.Elem()))
			return
		}
		s.wrongType(path, "an array of tables", v, hint)
		return
	default:
		s.wrongType(path, "an array of tables", v, hint)
		return
	}
	out := reflect.MakeSlice(field.Type(), 0, len(list))
	for i, e := range list {
		values, ok := e.(map[string]any)
		if !ok {
			s.wrongType(element(path, i), "a table", e, hint)
			continue
		}
		raw := reflect.New(field.Type().Elem()).Elem()
		s.prepare(raw, element(path, i))
		s.table(element(path, i), values, raw)
		out = reflect.Append(out, raw)
	}
	field.Set(out)
}

// wrongType does not show the value: it may be a secret in the wrong place.
func (s *source) wrongType(path, want string, v any, hint string) {
	s.wrong(path, fmt.Sprintf("must be %s, not %s", want, typeName(v)), hint)
}

func typeName(v any) string {
	switch v.(type) {
	case string:
		return "text"
	case bool:
		return "true or false"
	case int64:
		return "a whole number"
	case float64:
		return "a number with a fraction"
	case time.Time:
		return "a date or time"
	case map[string]any:
		return "a table"
	}
	return "an array"
}

func (s *source) inlineSecret(path string) {
	parent := path[:max(0, strings.LastIndexByte(path, '.'))]
	right := secretKeys[blockOf(parent)]
	if right == nil {
		s.wrong(path, "secrets are given by file, and this version takes none here", "remove it")
		return
	}
	s.wrong(path, "secrets are given by file: use "+strings.Join(right, " or "), "")
	for _, key := range right {
		s.faulty[joinPath(parent, key)] = true // that it is missing is the same mistake
	}
}

// unknown records a key that block t, which is at path, does not have.
func (s *source) unknown(path, key string, t reflect.Type, values map[string]any) {
	full := joinPath(path, quoteKey(key))
	known := keysOf(t)
	if s.included && path == "" {
		known = includable
	}
	if slices.Contains(inlineSecrets, key) {
		s.inlineSecret(full)
		return
	}
	hint := ""
	if meant := nearest(key, known); meant != "" {
		hint = fmt.Sprintf("did you mean %q?", meant)
		if _, ok := values[meant]; !ok {
			s.faulty[joinPath(path, meant)] = true // that it is missing is the same mistake
		}
	} else if others := blocksWith(key); len(others) > 0 {
		hint = "it belongs " + where(others)
	} else {
		hint = "known here: " + strings.Join(known, ", ")
	}
	switch v := values[key].(type) {
	case []map[string]any:
		// Each block of an array of tables has a line of its own.
		for i := range v {
			s.wrong(element(full, i), "unknown block", hint)
		}
	case map[string]any:
		// One mistake, not one for each key in it.
		s.wrong(full, "unknown table", hint)
	default:
		s.wrong(full, "unknown key", hint)
	}
}

// where says in words to which blocks a key belongs.
func where(blocks []string) string {
	words := make([]string, len(blocks))
	for i, b := range blocks {
		switch b {
		case "":
			words[i] = "to the top of the main file, before the first block"
		case "clock", "connector.token", "http", "log", "spool":
			words[i] = "into [" + b + "]"
		case "serial.usb", "serial.length_field":
			words[i] = "into " + strings.TrimPrefix(b, "serial.") + " of [[serial]]"
		default:
			words[i] = "into [[" + b + "]]"
		}
	}
	return strings.Join(words, " or ")
}
