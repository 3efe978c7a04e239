package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// binding are the flags that say where the box stands and which monitors are at it.
type binding struct {
	Monitor []string `sep:"none" placeholder:"KEY=VALUE …" help:"One monitor, as keys of the box's configuration with blanks between: name=bed-12 kind=serial device=/dev/ttyUSB0 dialect=comen zone=Europe/Berlin bed=ICU-12. Again for the next one."`
	Config  string   `type:"existingfile" placeholder:"FILE" help:"A whole configuration in place of --monitor; box.data must be \"data\" and network.grant \"grant.json\"."`
	Status  string   `default:"127.0.0.1:8100" help:"Where the box shows its status page."`
}

// numbers are the keys of a monitor that are no text.
var numbers = map[string]bool{"baud": true, "data_bits": true, "stop_bits": true, "max_connections": true}

// text is the box's configuration. What its keys mean, and whether the values are possible, only the box's firmware knows.
func (b binding) text(box string) (string, error) {
	if b.Config != "" {
		t, err := os.ReadFile(b.Config)
		if err != nil {
			return "", fmt.Errorf("cannot read the configuration: %w", err)
		}
		return string(t), nil
	}
	if len(b.Monitor) == 0 {
		return "", errors.New("cannot bind the box to nothing: give a --monitor for each monitor at it, or a --config FILE")
	}
	var monitors []map[string]any
	for _, m := range b.Monitor {
		keys, err := parseMonitor(m)
		if err != nil {
			return "", err
		}
		monitors = append(monitors, keys)
	}
	t, err := toml.Marshal(map[string]any{
		"box": map[string]string{"id": box, "data": "data"}, "network": map[string]string{"grant": "grant.json"},
		"status": map[string]string{"listen": b.Status}, "monitor": monitors,
	})
	return string(t), err
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
			n, err := strconv.Atoi(v)
			if err != nil {
				return nil, fmt.Errorf("cannot use the monitor %q: %s must be a number", s, k)
			}
			keys[k] = n
		}
	}
	return keys, nil
}
