package record

import (
	"fmt"
	"strings"
)

// BoxID names one box: the facility it stands in and its name there. Each part is 1 to 32 of a-z, 0-9 and "-".
type BoxID struct{ Facility, Name string }

// ParseBoxID reads the form "facility/name".
func ParseBoxID(s string) (BoxID, error) {
	facility, name, _ := strings.Cut(s, "/")
	b := BoxID{facility, name}
	if !b.Valid() {
		return BoxID{}, fmt.Errorf("cannot read box id %.70q: give facility/name, each 1 to 32 of a-z, 0-9 and \"-\"", s)
	}
	return b, nil
}

// Valid reports whether both parts keep to the alphabet and the length.
func (b BoxID) Valid() bool { return validName(b.Facility) && validName(b.Name) }

// String is the form that ParseBoxID reads: "f1/gw1".
func (b BoxID) String() string { return b.Facility + "/" + b.Name }

// Origin is the first line of the box's checkpoints and the name of its signatures: "vitalgate/f1/gw1".
func (b BoxID) Origin() string { return "vitalgate/" + b.String() }

// Subject is where the box publishes: "obs.f1.gw1".
func (b BoxID) Subject() string { return "obs." + b.Facility + "." + b.Name }

func validName(s string) bool {
	if len(s) == 0 || len(s) > 32 {
		return false
	}
	for i := range len(s) {
		if c := s[i]; !(c >= 'a' && c <= 'z' || c >= '0' && c <= '9' || c == '-') {
			return false
		}
	}
	return true
}

// ParseOrigin is the inverse of Origin.
func ParseOrigin(s string) (BoxID, error) {
	id, ok := strings.CutPrefix(s, "vitalgate/")
	if !ok {
		return BoxID{}, fmt.Errorf("cannot read origin %.80q: it does not begin with vitalgate/", s)
	}
	return ParseBoxID(id)
}
