package config

import (
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
)

// Key describes one key of the file.
type Key struct {
	Path    string // "spool.quota", "monitor[].baud"
	Type    string // "text", "number", "size", "duration"
	Default string // as written in the file; "" with Required
	Example string
	Doc     string

	Required bool
}

// Keys lists every key in the order of the file, read from the struct tags of Config.
func Keys() []Key {
	var keys []Key
	root := reflect.TypeFor[Config]()
	for i := range root.NumField() {
		table := root.Field(i)
		path, t := table.Tag.Get("toml"), table.Type
		if t.Kind() == reflect.Slice {
			path, t = path+"[]", t.Elem()
		}
		for j := range t.NumField() {
			f := t.Field(j)
			def, has := f.Tag.Lookup("default")
			keys = append(keys, Key{
				Path: path + "." + f.Tag.Get("toml"), Type: typeName(f.Type), Default: def,
				Example: f.Tag.Get("example"), Doc: f.Tag.Get("doc"), Required: !has,
			})
		}
	}
	return keys
}

func typeName(t reflect.Type) string {
	switch {
	case t == reflect.TypeFor[Size]():
		return "size"
	case t == reflect.TypeFor[Duration]():
		return "duration"
	case t.Kind() == reflect.Int:
		return "number"
	}
	return "text"
}

// setDefaults gives every key outside the monitor tables its default.
func setDefaults(c *Config) {
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		if t := v.Field(i); t.Kind() == reflect.Struct {
			setStruct(t, nil)
		}
	}
}

// fillDefaults gives the keys that are absent from the file's table their default.
func fillDefaults(m *Monitor, present map[string]any) { setStruct(reflect.ValueOf(m).Elem(), present) }

func setStruct(v reflect.Value, present map[string]any) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		def, has := f.Tag.Lookup("default")
		if _, given := present[f.Tag.Get("toml")]; !has || given {
			continue
		}
		switch p := v.Field(i).Addr().Interface().(type) {
		case *string:
			*p = def
		case *int:
			*p, _ = strconv.Atoi(def)
		case interface{ UnmarshalText([]byte) error }:
			if err := p.UnmarshalText([]byte(def)); err != nil {
				panic("config: default of " + f.Name + ": " + err.Error())
			}
		}
	}
}

// Describe writes the table of all keys for a person.
func Describe(w io.Writer) error {
	for _, k := range Keys() {
		value := "default " + strconv.Quote(k.Default)
		if k.Required {
			value = "required"
		}
		if _, err := fmt.Fprintf(w, "%s  (%s, %s)\n    %s\n", k.Path, k.Type, value, k.Doc); err != nil {
			return err
		}
	}
	return nil
}

// Example writes a commented file that Parse accepts.
func Example(w io.Writer) error {
	var b strings.Builder
	b.WriteString("# vitalgate configuration. Every key is shown with its default, or with an example where it has none.\n" +
		"# Check it with: vitalgate config check -c FILE\n")
	table := ""
	for _, k := range Keys() {
		name, key, _ := strings.Cut(k.Path, ".")
		if name != table {
			table = name
			if base, list := strings.CutSuffix(name, "[]"); list {
				fmt.Fprintf(&b, "\n[[%s]]\n", base)
			} else {
				fmt.Fprintf(&b, "\n[%s]\n", name)
			}
		}
		value, comment := k.Default, "# "
		if k.Required || key == "dialect" || key == "kind" {
			comment = ""
		}
		if k.Example != "" {
			value = k.Example
		}
		if k.Type != "number" {
			value = strconv.Quote(value)
		}
		fmt.Fprintf(&b, "# %s\n%s%s = %s\n", k.Doc, comment, key, value)
	}
	_, err := io.WriteString(w, b.String())
	return err
}
