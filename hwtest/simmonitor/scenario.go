package main

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/vitalgate/vitalgate/adapters"
)

//go:embed scenarios/*.toml
var builtIn embed.FS

// Scenario is one simulated monitor and its patient: a file of the folder scenarios, or one of your own.
type Scenario struct {
	Title   string   `toml:"title"`
	Dialect string   `toml:"dialect"`
	Line    Line     `toml:"line"`
	Every   Duration `toml:"every"` // between messages
	Zone    string   `toml:"zone"`  // of times that the dialect sends without one; default UTC
	Patient Patient  `toml:"patient"`
	Vitals  Vitals   `toml:"vitals"`
	NIBP    struct {
		Every Duration `toml:"every"` // 0 is no cuff
	} `toml:"nibp"`
	Events []Event `toml:"event"`

	zone *time.Location
}

// Line is how the monitor is connected.
type Line struct {
	To      string           `toml:"to"` // tcp://host:port, listen://host:port, serial:/dev/…[?baud=], pty:[LINK], pds://host:port[?beacon=]
	Framing adapters.Framing `toml:"framing"`
	Timeout Duration         `toml:"timeout"` // for an acknowledgement
	Resend  int              `toml:"resend"`  // how often a message is sent again that was not acknowledged in time
}

// Patient is a person who does not exist.
type Patient struct {
	ID     string `toml:"id"`
	Family string `toml:"family"`
	Given  string `toml:"given"`
	Birth  string `toml:"birth"` // YYYYMMDD
	Sex    string `toml:"sex"`
	Ward   string `toml:"ward"`
	Bed    string `toml:"bed"`
}

// Vitals are the means around which the patient's vitals drift. A pressure line and a CO2 sensor are there only if given.
type Vitals struct {
	HR        float64 `toml:"hr"`
	SpO2      float64 `toml:"spo2"`
	RR        float64 `toml:"rr"`
	Sys       float64 `toml:"sys"`
	Dia       float64 `toml:"dia"`
	Temp      float64 `toml:"temp"`
	EtCO2     float64 `toml:"etco2"`
	Perfusion float64 `toml:"perfusion"`
	Arterial  bool    `toml:"arterial"` // an arterial line: continuous pressures
}

func (v *Vitals) mean(c channel) float64 {
	return [channels]float64{v.HR, v.SpO2, v.RR, v.Sys, v.Dia, v.Temp, v.EtCO2, v.Perfusion}[c]
}

// Event is something that happens to the patient.
type Event struct {
	Kind  string   `toml:"kind"`
	At    Duration `toml:"at"`
	For   Duration `toml:"for"`
	Every Duration `toml:"every"` // again and again; 0 is once
}

var eventKinds = []string{"desaturation", "tachycardia", "hypotension", "apnea", "probe-off"}

// Duration is written as "30s".
type Duration time.Duration

// UnmarshalText reads "30s".
func (d *Duration) UnmarshalText(text []byte) error {
	v, err := time.ParseDuration(string(text))
	*d = Duration(v)
	return err
}

// names lists the scenarios that come with the program.
func names() []string {
	files, err := fs.Glob(builtIn, "scenarios/*.toml")
	if err != nil {
		panic(err) // the pattern is a constant
	}
	for i, f := range files {
		files[i] = strings.TrimSuffix(path.Base(f), ".toml")
	}
	return files
}

// load reads the scenario of that name, or of that file if name has a dot or a slash.
func load(name string) (*Scenario, error) {
	var raw []byte
	var err error
	if strings.ContainsAny(name, "./") {
		raw, err = os.ReadFile(name)
	} else if raw, err = builtIn.ReadFile("scenarios/" + name + ".toml"); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("there is no scenario %q: there are %s; name a file as ./FILE.toml", name, strings.Join(names(), ", "))
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the scenario: %w", err)
	}
	s := &Scenario{Zone: "UTC"}
	s.Line = Line{Framing: adapters.MLLP, Timeout: Duration(5 * time.Second), Resend: 3}
	s.Vitals = Vitals{HR: 76, SpO2: 97, RR: 15, Sys: 122, Dia: 76, Temp: 36.9, Perfusion: 3}
	d := toml.NewDecoder(bytes.NewReader(raw)).DisallowUnknownFields()
	if err := d.Decode(s); err != nil {
		var strict *toml.StrictMissingError
		if errors.As(err, &strict) {
			return nil, fmt.Errorf("cannot read scenario %s: unknown setting:\n%s", name, strict.String())
		}
		var place *toml.DecodeError
		if errors.As(err, &place) {
			line, _ := place.Position()
			return nil, fmt.Errorf("cannot read scenario %s, line %d: %w", name, line, err)
		}
		return nil, fmt.Errorf("cannot read scenario %s: %w", name, err)
	}
	if err := s.check(); err != nil {
		return nil, fmt.Errorf("cannot play scenario %s: %w", name, err)
	}
	return s, nil
}

func (s *Scenario) check() error {
	var err error
	if s.zone, err = time.LoadLocation(s.Zone); err != nil {
		return fmt.Errorf("zone %q is no IANA time zone", s.Zone)
	}
	if _, ok := dialects[s.Dialect]; !ok {
		return fmt.Errorf("dialect %q is none of %s", s.Dialect, strings.Join(dialectNames(), ", "))
	}
	if s.Every <= 0 {
		return errors.New("every must say how long it is from one message to the next, such as \"2s\"")
	}
	if s.Line.Timeout <= 0 || s.Line.Resend < 0 {
		return errors.New("line.timeout must be positive, line.resend not negative")
	}
	for i, e := range s.Events {
		if !slices.Contains(eventKinds, e.Kind) {
			return fmt.Errorf("event %d: kind %q is none of %s", i+1, e.Kind, strings.Join(eventKinds, ", "))
		}
		if e.For <= 0 || e.At < 0 || e.Every < 0 {
			return fmt.Errorf("event %d: it must last (for) some time, and at and every cannot be negative", i+1)
		}
	}
	return s.Line.Framing.Check()
}

// somebody gives s another synthetic patient, who depends on name alone, so that many monitors can play one scenario.
func (s *Scenario) somebody(name string) {
	families := []string{"ADLER", "BERGMANN", "CASTRO", "DUPONT", "ERIKSEN", "FARKAS", "GALLO", "HORVAT", "IVANOVA", "JANSEN", "KOWALSKI", "LINDQVIST", "MORETTI", "NOVAK", "OKAFOR", "PETROV"}
	given := []string{"ALMA", "BRUNO", "CLARA", "DARIO", "EDITH", "FELIX", "GRETA", "HUGO", "IDA", "JONAS", "KLARA", "LEON", "MIRA", "NILS", "OLGA", "PAUL"}
	n := seed(name)
	s.Patient.ID = fmt.Sprintf("SIM%06d", n%1_000_000)
	s.Patient.Family, s.Patient.Given = families[n>>20%16], given[n>>24%16]
	s.Patient.Sex = []string{"F", "M"}[n>>24%2]
	s.Patient.Birth = fmt.Sprintf("%04d%02d%02d", 1930+n>>28%70, 1+n>>36%12, 1+n>>40%28)
	s.Patient.Bed = name
}

func seed(name string) uint64 {
	h := fnv.New64a()
	h.Write([]byte(name))
	return h.Sum64()
}
