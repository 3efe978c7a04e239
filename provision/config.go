package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/vitalgate/vitalgate/provision/protocol"
	records "github.com/vitalgate/vitalgate/record" // record is a line of vitalpeer tail here
)

// binding are the flags that say where the box stands and which monitors are at it.
type binding struct {
	Monitor []string `sep:"none" placeholder:"KEY=VALUE …" help:"One monitor, as keys of the box's configuration with blanks between: name=bed-12 kind=serial device=/dev/ttyUSB0 dialect=comen zone=Europe/Berlin bed=ICU-12. Again for the next one."`
	Config  string   `type:"existingfile" placeholder:"FILE" help:"A whole configuration in place of --monitor; box.data must be \"data\" and network.grant \"grant.json\"."`
	Status  string   `placeholder:"HOST:PORT" help:"Where the box shows its status page (without it: as before, at first 127.0.0.1:8100, which only the box itself sees)."`
}

// boxName says whether a box can have the name.
func boxName(s string) error {
	_, err := records.ParseBoxID(s)
	return err
}

// monitorName is as package config of the firmware has it.
var monitorName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// plausible refuses what no box can use, where there is none to ask, and dialects that this one did not name at the stick. The rest only
// the box itself knows.
func plausible(config string, own protocol.StickBox) error {
	var c struct {
		Monitor []struct{ Name, Kind, Address, Device, Dialect, Zone string }
	}
	var about protocol.About // a box of an older firmware did not write it
	if text, err := os.ReadFile(own.About()); err == nil {
		if err := json.Unmarshal(text, &about); err != nil {
			return fmt.Errorf("cannot read what the box wrote on the stick of itself: %w; plug the stick into it once more", err)
		}
	}
	if err := toml.Unmarshal([]byte(config), &c); err != nil {
		return fmt.Errorf("cannot use the configuration: %w", err)
	}
	for i, m := range c.Monitor {
		if !monitorName.MatchString(m.Name) {
			return fmt.Errorf("cannot use the configuration: name %q of monitor %d: must be 1 to 64 of a-z, A-Z, 0-9, ., _ and -", m.Name, i+1)
		}
		if _, _, err := net.SplitHostPort(m.Address); err != nil && m.Kind != "serial" {
			return fmt.Errorf("cannot use the configuration: address %q of monitor %s is not host:port, such as 0.0.0.0:2575", m.Address, m.Name)
		}
		if _, err := time.LoadLocation(m.Zone); err != nil || m.Zone == "Local" {
			return fmt.Errorf("cannot use the configuration: zone %q of monitor %s is not an IANA time zone such as Europe/Berlin or UTC", m.Zone, m.Name)
		}
		if len(about.Dialects) == 0 {
			continue
		}
		if err := speaks(about, m.Dialect); err != nil && m.Dialect != "" {
			return fmt.Errorf("%w (monitor %s)", err, m.Name)
		}
		if m.Kind == "serial" && !slices.Contains(about.Lines, m.Device) {
			say("The box named no serial line %s, which monitor %s is to be at. It named: %s.", m.Device, m.Name, cmp.Or(strings.Join(about.Lines, ", "), "none"))
		}
	}
	return nil
}

// numbers are the keys of a monitor that are no text.
var numbers = map[string]bool{"baud": true, "data_bits": true, "stop_bits": true, "max_connections": true}

// text is the configuration of a box that has none. What its keys mean, and whether the values are possible, only the box's firmware
// knows.
func (b binding) text(box string) (string, error) {
	if b.Config != "" {
		return b.file()
	}
	monitors, err := b.monitors()
	if err != nil {
		return "", err
	}
	if len(monitors) == 0 {
		return "", errors.New("cannot bind the box to nothing: give a --monitor for each monitor at it, or a --config FILE")
	}
	all := map[string]any{"box": map[string]string{"id": box, "data": "data"}, "network": map[string]string{"grant": "grant.json"}, "monitor": monitors}
	if b.Status != "" {
		all["status"] = map[string]string{"listen": b.Status}
	}
	t, err := toml.Marshal(all)
	return string(t), err
}

func (b binding) file() (string, error) {
	t, err := os.ReadFile(b.Config)
	if err != nil {
		return "", fmt.Errorf("cannot read the configuration: %w", err)
	}
	return string(t), nil
}

func (b binding) monitors() (all []map[string]any, err error) {
	for _, m := range b.Monitor {
		keys, err := parseMonitor(m)
		if err != nil {
			return nil, err
		}
		all = append(all, keys)
	}
	return all, nil
}

// over changes the configuration in force: the flags' monitors take the place of its monitors, and the flag's status page that of its
// own. All else stays as it was, letter by letter; and so does a monitor that is as the flags have it.
func (b binding) over(inForce string) (string, error) {
	if b.Config != "" {
		return b.file()
	}
	monitors, err := b.monitors()
	if err != nil {
		return "", err
	}
	if len(monitors) == 0 && b.Status == "" {
		return "", errors.New("cannot bind the box to nothing: give a --monitor for each monitor at it, or a --config FILE")
	}
	tables := split(inForce)
	if len(monitors) > 0 {
		if tables, err = putMonitors(tables, monitors); err != nil {
			return "", err
		}
	}
	if b.Status != "" {
		tables = putStatus(tables, b.Status)
	}
	var text strings.Builder
	for _, t := range tables {
		text.WriteString(t.text)
	}
	return text.String(), b.verify(inForce, text.String(), monitors)
}

// verify says whether the new configuration is the old one with nothing changed but what the flags say. The texts are cut by lines,
// which TOML allows to mislead.
func (b binding) verify(old, new_ string, monitors []map[string]any) error {
	var want, got map[string]any
	err := errors.Join(toml.Unmarshal([]byte(old), &want), toml.Unmarshal([]byte(new_), &got))
	if err == nil && len(monitors) > 0 {
		list := make([]any, len(monitors))
		for i, m := range monitors {
			list[i] = m
		}
		want["monitor"] = list
	}
	if err == nil && b.Status != "" {
		status, _ := want["status"].(map[string]any)
		if status == nil {
			status = map[string]any{}
		}
		status["listen"] = b.Status
		want["status"] = status
	}
	if err != nil || !reflect.DeepEqual(want, got) {
		return errors.Join(errors.New("cannot change this configuration without touching the rest of it; print it with vitalprov bind --show, change it by hand, and give it with --config FILE"), err)
	}
	return nil
}

// table is one table of a configuration as it is written, with the comment that stands right above it.
type table struct{ name, text string }

var header = regexp.MustCompile(`^[ \t]*\[{1,2}[ \t]*([A-Za-z0-9_-]+)[ \t]*\]{1,2}[ \t]*(#.*)?$`)

func split(text string) []table {
	all := []table{{}}
	comment := "" // not yet known of what
	for line := range strings.Lines(text) {
		here := &all[len(all)-1]
		switch m := header.FindStringSubmatch(strings.TrimRight(line, "\r\n")); {
		case m != nil:
			all = append(all, table{name: m[1], text: comment + line})
			comment = ""
		case strings.HasPrefix(strings.TrimSpace(line), "#"):
			comment += line
		default:
			here.text += comment + line
			comment = ""
		}
	}
	last := &all[len(all)-1]
	if last.text += comment; last.text != "" && !strings.HasSuffix(last.text, "\n") {
		last.text += "\n"
	}
	return all
}

// putMonitors puts monitors where the first one stood, or at the end.
func putMonitors(tables []table, monitors []map[string]any) ([]table, error) {
	const name = "monitor"
	at := slices.IndexFunc(tables, func(t table) bool { return t.name == name })
	if at < 0 {
		at = len(tables)
	}
	wished := make([]table, len(monitors))
	for i, m := range monitors {
		text, err := toml.Marshal(map[string]any{name: []any{m}})
		if err != nil {
			return nil, fmt.Errorf("cannot write the monitor: %w", err)
		}
		wished[i] = table{name, string(text) + "\n"}
		if i == 0 && at > 0 && tables[at-1].text != "" && !strings.HasSuffix(tables[at-1].text, "\n\n") {
			wished[i].text = "\n" + wished[i].text
		}
		for _, old := range tables {
			var is struct{ Monitor []map[string]any }
			if old.name == name && toml.Unmarshal([]byte(old.text), &is) == nil && len(is.Monitor) == 1 && reflect.DeepEqual(is.Monitor[0], m) {
				wished[i] = old
			}
		}
	}
	others := func(of []table) []table {
		return slices.DeleteFunc(slices.Clone(of), func(t table) bool { return t.name == name })
	}
	return slices.Concat(others(tables[:at]), wished, others(tables[at:])), nil
}

var listenKey = regexp.MustCompile(`(?m)^[ \t]*listen[ \t]*=.*$`)

// putStatus puts the address of the status page where the old one stood, or where its key belongs.
func putStatus(tables []table, address string) []table {
	const name = "status"
	line := "listen = " + strconv.Quote(address)
	at := slices.IndexFunc(tables, func(t table) bool { return t.name == name })
	if at < 0 {
		return append(tables, table{name, "\n[status]\n" + line + "\n"})
	}
	t := &tables[at]
	if listenKey.MatchString(t.text) {
		t.text = listenKey.ReplaceAllLiteralString(t.text, line)
		return tables
	}
	t.text = strings.TrimRight(t.text, "\r\n") + "\n" + line + "\n\n"
	return tables
}

func parseMonitor(s string) (map[string]any, error) {
	keys := map[string]any{}
	for _, f := range strings.Fields(s) {
		k, v, ok := strings.Cut(f, "=")
		if !ok || k == "" {
			return nil, fmt.Errorf("cannot use the monitor %q: %q is not key=value", s, f)
		}
		if _, twice := keys[k]; twice {
			return nil, fmt.Errorf("cannot use the monitor %q: %s is given twice", s, k)
		}
		keys[k] = v
		if numbers[k] {
			n, err := strconv.ParseInt(v, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("cannot use the monitor %q: %s must be a number", s, k)
			}
			keys[k] = n
		}
	}
	return keys, nil
}
