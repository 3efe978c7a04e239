// Package config reads the box's configuration: one strict TOML file, in which an unknown key, a wrong type or a
// value out of range is an error that names the key and the remedy. The struct tags are the only description of a
// key; `vitalgate config describe` and the generated example are printed from them.
package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/vitalgate/vitalgate/fhir/mapping"
	"github.com/vitalgate/vitalgate/record"
)

// Config is the whole file. The tags are: `default` the value when the key is absent, `doc` what a person must know,
// `example` what the generated example shows where it differs from the default.
type Config struct {
	Box      Box       `toml:"box"`
	TPM      TPM       `toml:"tpm"`
	Network  Network   `toml:"network"`
	Spool    Spool     `toml:"spool"`
	Status   Status    `toml:"status"`
	FHIR     FHIR      `toml:"fhir"`
	Monitors []Monitor `toml:"monitor"`
}

// Box names the box and its place on disk.
type Box struct {
	ID   string `toml:"id" example:"f1/gw1" doc:"facility/name of this box as it was enrolled; each part is 1 to 32 of a-z, 0-9 and -"`
	Data string `toml:"data" default:"/var/lib/vitalgate" doc:"folder of the log, the key blobs and the cursors; mode 0700, on a disk that honours fsync"`
}

// TPM says where the signing key lives.
type TPM struct {
	Source string `toml:"source" default:"auto" doc:"auto (/dev/tpmrm0, else swtpm, else a software key that is labelled NOT A TPM), a device path, swtpm, or software"`
}

// Network is the way to the hospital's peers.
type Network struct {
	Grant        string   `toml:"grant" default:"" example:"/etc/vitalgate/gw1.grant.json" doc:"grant file from the facility (vitalpeer box add); without one the box does not run, because nobody could read its records"`
	BatchRecords int      `toml:"batch_records" default:"1000" doc:"most records in one atomic batch, 1 to 1000; each batch costs the leaf node a few syncs, whatever is in it"`
	AckTimeout   Duration `toml:"ack_timeout" default:"1500ms" doc:"how long the leaf node may take to acknowledge a batch before it is sent again"`
}

// Spool is the store-and-forward log.
type Spool struct {
	Quota   Size `toml:"quota" default:"4GiB" doc:"most disk space of the log; what the network has not acknowledged is never dropped, so at the limit monitors are refused (AE)"`
	Segment Size `toml:"segment" default:"8MiB" doc:"size of one log file; acknowledged files are dropped whole when space is needed"`
}

// Status is the local, read-only status listener.
type Status struct {
	Listen string `toml:"listen" default:"127.0.0.1:8100" doc:"address of /healthz, /readyz, /metrics and the status page; no patient data; empty: none"`
}

// FHIR holds what the conversion cannot know from the message.
type FHIR struct {
	PatientSystem string `toml:"patient_system" default:"" example:"urn:oid:1.2.276.0.76.3.1.1" doc:"identifier system of patient numbers whose assigning authority is not in the message"`
	Codes         string `toml:"codes" default:"" example:"/etc/vitalgate/codes.tsv" doc:"the site's own codes: a TSV, a FHIR ConceptMap, or LOINC's IEEE medical device code table; see the guide in fhir/mapping/dialects"`
	DeviceSystem  string `toml:"device_system" default:"" doc:"identifier system of device numbers that are no EUI-64"`
}

// Monitor is one bedside monitor.
type Monitor struct {
	Name        string `toml:"name" example:"bed-12" doc:"name of the monitor on status pages and in every record; 1 to 64 of a-z, A-Z, 0-9, ., _ and -"`
	Kind        string `toml:"kind" default:"mllp-server" doc:"mllp-server (the monitor connects to us), mllp-client (we connect to it), mindray-pds (the same, with the query and keep-alive of Mindray bedside monitors) or serial"`
	Address     string `toml:"address" example:"0.0.0.0:2575" doc:"host:port to listen on or to connect to; not for serial"`
	Dialect     string `toml:"dialect" default:"ihe-pcd01" doc:"monitor family (vitalgate dialects lists them), or the path of a folder with one of your own; a person decides it, vitalgate detect proposes it"`
	Zone        string `toml:"zone" default:"" example:"Europe/Berlin" doc:"IANA time zone of times that the monitor sends without one; empty: unknown, and said so on every reading"`
	Bed         string `toml:"bed" default:"" example:"ICU-12" doc:"bed this monitor stands at, used when the message names none"`
	Pressure    string `toml:"unit_pressure" default:"" example:"mm[Hg]" doc:"unit of pressures that the monitor sends without one, as it is set there: mm[Hg], kPa or cm[H2O]; empty: unknown, and such values are not charted"`
	Temperature string `toml:"unit_temperature" default:"" example:"Cel" doc:"the same for temperatures: Cel or [degF]"`
	Length      string `toml:"unit_length" default:"" example:"cm" doc:"the same for body heights: cm or [in_i]"`
	Mass        string `toml:"unit_mass" default:"" example:"kg" doc:"the same for body weights: kg, g or [lb_av]"`

	AssociationAge Duration `toml:"association_age" default:"24h" doc:"for monitors that name their patient once and not with each message: how long that holds without being said again; the end of the connection always ends it"`

	Framing    string   `toml:"framing" default:"" doc:"mllp, none or hllp; empty: as the dialect says"`
	MaxMessage Size     `toml:"max_message" default:"1MiB" doc:"longest message; a longer one is kept cut and flagged, never charted"`
	ReadIdle   Duration `toml:"read_idle" default:"0s" doc:"close a TCP connection that has been silent this long; 0s: never (TCP keep-alive still finds dead links), for mindray-pds 5s"`

	MaxConnections int `toml:"max_connections" default:"4" doc:"mllp-server: most connections at once"`

	Beacon        string   `toml:"beacon" default:"" doc:"mindray-pds: UDP host:port to hear the monitor announce itself at, mostly 0.0.0.0:4600; only what the configured IP address says of itself counts; the port of address may then be 0"`
	Query         string   `toml:"query" default:"all" doc:"mindray-pds: parameters to ask for: all, known (those of the dialect's table), or numbers with blanks between; uMEC12 wants numbers"`
	QueryAgain    string   `toml:"query_again" default:"keep-alive" doc:"mindray-pds: keep-alive asks once more at the monitor's first keep-alive, which uMEC12 needs; no does not"`
	QueryInterval Duration `toml:"query_interval" default:"0s" doc:"mindray-pds: ask again this often; 0s: never"`

	Device   string   `toml:"device" default:"" doc:"serial: path of the line, best a stable one under /dev/serial/by-path"`
	Baud     int      `toml:"baud" default:"9600" doc:"serial: 1200 to 230400"`
	DataBits int      `toml:"data_bits" default:"8" doc:"serial: 7 or 8"`
	Parity   string   `toml:"parity" default:"none" doc:"serial: none, even or odd"`
	StopBits int      `toml:"stop_bits" default:"1" doc:"serial: 1 or 2"`
	Flow     string   `toml:"flow" default:"none" doc:"serial: none, rtscts or xonxoff"`
	IdleEnd  Duration `toml:"idle_end" default:"500ms" doc:"unframed streams: silence that ends a message"`
	DTR      string   `toml:"dtr" default:"" doc:"serial: level of the DTR line: on, off, or empty for what the system sets"`
	RTS      string   `toml:"rts" default:"" doc:"serial: level of the RTS line, unless flow is rtscts: on, off or empty"`
}

// Duration is a time.Duration written as "3s" or "500ms".
type Duration time.Duration

// UnmarshalText reads a Go duration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	if err != nil || v < 0 {
		return fmt.Errorf("%q is not a duration; write a number with a unit, such as 500ms, 3s or 1m", b)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// Size is a number of bytes written as "8MiB" or "500kB".
type Size int64

var sizeUnits = map[string]int64{
	"": 1, "B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}

var sizeForm = regexp.MustCompile(`^([0-9]{1,9}) ?([A-Za-z]*)$`)

// UnmarshalText reads a whole number with an optional unit.
func (s *Size) UnmarshalText(b []byte) error {
	m := sizeForm.FindSubmatch(b)
	if m == nil || sizeUnits[string(m[2])] == 0 {
		return fmt.Errorf("%q is not a size; write a whole number with a unit, such as 500kB, 8MiB or 4GiB", b)
	}
	var n int64
	for _, c := range m[1] {
		n = n*10 + int64(c-'0')
	}
	*s = Size(n * sizeUnits[string(m[2])])
	return nil
}

// Load reads and checks the file at path. Relative paths in it are taken from the file's own folder.
func Load(path string) (*Config, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the configuration: %w; write one with: vitalgate config example > %s", err, path)
	}
	c, err := Parse(b)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	dir := filepath.Dir(path)
	for _, p := range []*string{&c.Box.Data, &c.Network.Grant, &c.FHIR.Codes} {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(dir, *p)
		}
	}
	for i := range c.Monitors {
		m := &c.Monitors[i]
		if !isFolder(m.Dialect) {
			continue
		}
		if !filepath.IsAbs(m.Dialect) {
			if m.Dialect, err = filepath.Abs(filepath.Join(dir, m.Dialect)); err != nil {
				return nil, fmt.Errorf("%s: cannot find the dialect of monitor %s: %w", path, m.Name, err)
			}
		}
		if _, err := Dialect(m.Dialect); err != nil {
			return nil, fmt.Errorf("%s: monitor %s: %w", path, m.Name, err)
		}
	}
	return c, nil
}

// isFolder says whether a dialect is one of the site's own, by the path of its folder.
func isFolder(dialect string) bool { return strings.ContainsAny(dialect, `/\`) }

// Dialect gives the dialect of that name, or the one in that folder where the name is a path (docs/adding-a-dialect.md).
func Dialect(name string) (*mapping.Dialect, error) {
	if !isFolder(name) {
		return mapping.LookupDialect(name)
	}
	name = filepath.Clean(name)
	return mapping.LoadDialect(os.DirFS(filepath.Dir(name)), filepath.Base(name))
}

// Parse reads and checks the bytes of a configuration file. All that is wrong is reported at once.
func Parse(b []byte) (*Config, error) {
	var c Config
	d := toml.NewDecoder(bytes.NewReader(b)).DisallowUnknownFields()
	// A first pass finds how many monitors there are, so that the defaults stand before the second one.
	var shape struct {
		Monitors []map[string]any `toml:"monitor"`
	}
	if err := toml.Unmarshal(b, &shape); err != nil {
		return nil, explain(err)
	}
	c.Monitors = make([]Monitor, 0, len(shape.Monitors))
	setDefaults(&c)
	err := d.Decode(&c)
	if strict := (*toml.StrictMissingError)(nil); errors.As(err, &strict) { // the rest was read: say what is wrong there too
		err = explain(err)
	} else if err != nil {
		return nil, explain(err)
	}
	for i := range c.Monitors {
		fillDefaults(&c.Monitors[i], shape.Monitors[i])
	}
	if err := errors.Join(err, c.check()); err != nil {
		return nil, err
	}
	return &c, nil
}

// explain turns the TOML library's errors into lines that say where and what.
func explain(err error) error {
	if strict := (*toml.StrictMissingError)(nil); errors.As(err, &strict) {
		var all []error
		for _, e := range strict.Errors {
			row, col := e.Position()
			key := strings.Join(e.Key(), ".")
			all = append(all, fmt.Errorf("line %d, column %d: unknown key %q; vitalgate config describe lists the keys%s", row, col, key, nearest(e.Key())))
		}
		return errors.Join(all...)
	}
	if de := (*toml.DecodeError)(nil); errors.As(err, &de) {
		row, col := de.Position()
		return fmt.Errorf("line %d, column %d: %s: %s", row, col, strings.Join(de.Key(), "."), strings.TrimPrefix(de.Error(), "toml: "))
	}
	return err
}

func nearest(key toml.Key) string {
	if len(key) == 0 {
		return ""
	}
	last := key[len(key)-1]
	best, dist := "", 3
	for _, k := range Keys() {
		name := k.Path[strings.LastIndexByte(k.Path, '.')+1:]
		if d := editDistance(last, name); d < dist {
			best, dist = name, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf("; did you mean %q?", best)
}

// editDistance is the Levenshtein distance of two short ASCII names.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diag := row[0]
		row[0] = i + 1
		for j := range len(b) {
			d := diag
			if a[i] != b[j] {
				d = 1 + min(diag, row[j], row[j+1])
			}
			diag, row[j+1] = row[j+1], d
		}
	}
	return row[len(b)]
}

var monitorName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// check reports everything that a decoder cannot know to be wrong.
func (c *Config) check() error {
	var all []error
	bad := func(key, format string, a ...any) {
		all = append(all, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, a...)))
	}
	if _, err := record.ParseBoxID(c.Box.ID); err != nil {
		bad("box.id", "%v", err)
	}
	if c.Network.BatchRecords < 1 || c.Network.BatchRecords > 1000 {
		bad("network.batch_records", "is %d, must be 1 to 1000", c.Network.BatchRecords)
	}
	if c.Network.AckTimeout < Duration(100*time.Millisecond) {
		bad("network.ack_timeout", "is %v, must be at least 100ms", c.Network.AckTimeout)
	}
	if c.Spool.Segment < 1<<16 {
		bad("spool.segment", "is %d bytes, must be at least 64KiB", c.Spool.Segment)
	}
	if c.Spool.Quota < 4*c.Spool.Segment {
		bad("spool.quota", "is %d bytes, must be at least four segments (%d)", c.Spool.Quota, 4*c.Spool.Segment)
	}
	if c.Status.Listen != "" {
		if _, _, err := net.SplitHostPort(c.Status.Listen); err != nil {
			bad("status.listen", "%q is not host:port", c.Status.Listen)
		}
	}
	if len(c.Monitors) == 0 {
		bad("monitor", "there is none; add a [[monitor]] table for each monitor at this box")
	}
	names, places := map[string]int{}, map[string]string{}
	for i := range c.Monitors {
		m := &c.Monitors[i]
		key := func(k string) string {
			return fmt.Sprintf("monitor[%d] (%s) %s", i+1, cmp.Or(m.Name, "unnamed"), k)
		}
		if !monitorName.MatchString(m.Name) {
			bad(key("name"), "must be 1 to 64 of a-z, A-Z, 0-9, ., _ and -")
		}
		if j, ok := names[m.Name]; ok {
			bad(key("name"), "is also the name of monitor[%d]; names must differ", j+1)
		}
		names[m.Name] = i
		place := m.Address
		switch m.Kind {
		case "mllp-server", "mllp-client", "mindray-pds":
			if _, _, err := net.SplitHostPort(m.Address); err != nil {
				bad(key("address"), "%q is not host:port, such as 0.0.0.0:2575", m.Address)
			}
			if m.Device != "" {
				bad(key("device"), "is for serial monitors; this one is %s", m.Kind)
			}
		case "serial":
			place = m.Device
			if m.Device == "" {
				bad(key("device"), "is missing; name the line, such as /dev/ttyUSB0")
			}
			if m.Address != "" {
				bad(key("address"), "is for TCP monitors; this one is serial")
			}
			if m.Baud < 1200 || m.Baud > 230400 {
				bad(key("baud"), "is %d, must be 1200 to 230400", m.Baud)
			}
			if m.DataBits != 7 && m.DataBits != 8 {
				bad(key("data_bits"), "is %d, must be 7 or 8", m.DataBits)
			}
			if m.StopBits != 1 && m.StopBits != 2 {
				bad(key("stop_bits"), "is %d, must be 1 or 2", m.StopBits)
			}
			oneOf(bad, key("parity"), m.Parity, "none", "even", "odd")
			oneOf(bad, key("flow"), m.Flow, "none", "rtscts", "xonxoff")
			oneOf(bad, key("dtr"), m.DTR, "", "on", "off")
			oneOf(bad, key("rts"), m.RTS, "", "on", "off")
		default:
			oneOf(bad, key("kind"), m.Kind, "mllp-server", "mllp-client", "mindray-pds", "serial")
		}
		m.checkPDS(func(k, format string, a ...any) { bad(key(k), format, a...) })
		if other, ok := places[place]; ok && place != "" && m.Kind != "mllp-client" {
			bad(key("address/device"), "%s is also that of monitor %s; two monitors cannot share it", place, other)
		}
		places[place] = m.Name
		if _, err := mapping.LookupDialect(m.Dialect); err != nil && !isFolder(m.Dialect) {
			bad(key("dialect"), "%v; or name the folder of one of your own by a path", err)
		}
		oneOf(bad, key("framing"), m.Framing, "", "mllp", "none", "hllp")
		oneOf(bad, key("unit_pressure"), m.Pressure, "", "mm[Hg]", "kPa", "cm[H2O]")
		oneOf(bad, key("unit_temperature"), m.Temperature, "", "Cel", "[degF]")
		oneOf(bad, key("unit_length"), m.Length, "", "cm", "[in_i]")
		oneOf(bad, key("unit_mass"), m.Mass, "", "kg", "g", "[lb_av]")
		if _, err := m.Location(); err != nil {
			bad(key("zone"), "%v", err)
		}
		if m.AssociationAge < Duration(time.Minute) || m.AssociationAge > Duration(31*24*time.Hour) {
			bad(key("association_age"), "is %v, must be 1m to 744h", m.AssociationAge)
		}
		if m.MaxMessage < 1<<10 || m.MaxMessage > 1<<20 {
			bad(key("max_message"), "is %d bytes, must be 1KiB to 1MiB", m.MaxMessage)
		}
		if m.MaxConnections < 1 || m.MaxConnections > 1000 {
			bad(key("max_connections"), "is %d, must be 1 to 1000", m.MaxConnections)
		}
	}
	return errors.Join(all...)
}

func oneOf(bad func(string, string, ...any), key, got string, want ...string) {
	if !slices.Contains(want, got) {
		bad(key, "is %q, must be one of %q", got, want)
	}
}

// Location is the monitor's time zone; nil where the configuration names none.
func (m *Monitor) Location() (*time.Location, error) {
	if m.Zone == "" {
		return nil, nil
	}
	l, err := time.LoadLocation(m.Zone)
	if err != nil || m.Zone == "Local" {
		return nil, fmt.Errorf("%q is not an IANA time zone such as Europe/Berlin, UTC or Etc/GMT-7", m.Zone)
	}
	return l, nil
}
