package replay

import (
	"errors"
	"fmt"
	"io"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/tarm/serial"
)

// openSerial opens what stands behind "serial:".
func openSerial(s string) (io.ReadWriteCloser, error) {
	cfg, err := serialConfig(s)
	if err != nil {
		return nil, err
	}
	port, err := serial.OpenPort(cfg)
	if err != nil {
		return nil, fmt.Errorf("%w; check the device and that you may use it", err)
	}
	return port, nil
}

func serialConfig(s string) (*serial.Config, error) {
	device, query, _ := strings.Cut(s, "?")
	if device == "" {
		return nil, errors.New("a device is missing")
	}
	cfg := &serial.Config{Name: device, Baud: 9600, ReadTimeout: 100 * time.Millisecond}
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, err
	}
	for key, v := range values {
		n, bad := strconv.Atoi(v[0])
		switch key {
		case "baud":
			cfg.Baud = n
		case "bits":
			cfg.Size = byte(n)
		case "stop":
			cfg.StopBits = serial.StopBits(n)
		case "parity":
			p, ok := map[string]serial.Parity{"none": serial.ParityNone, "even": serial.ParityEven, "odd": serial.ParityOdd}[v[0]]
			if !ok {
				return nil, fmt.Errorf("parity %q must be none, even or odd", v[0])
			}
			cfg.Parity, bad = p, nil
		default:
			return nil, fmt.Errorf("there is no setting %q: baud, bits, parity and stop are", key)
		}
		if bad != nil {
			return nil, fmt.Errorf("%s=%q must be a number", key, v[0])
		}
	}
	return cfg, nil
}
