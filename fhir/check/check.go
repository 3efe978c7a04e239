// Package check judges FHIR R4 JSON by the rules that a schema-driven reader misses: duplicate keys, empty strings,
// arrays and objects, the case of enumerated codes, the invariants of the resources that vitalgate emits (obs-3, obs-6,
// obs-7, qty-3, vs-1, vs-2, vs-3, bdl-7, bdl-8), references that do not resolve inside their Bundle, the fixed codes and
// units of the vital-signs profiles, and the syntax of UCUM units.
//
// It is a second opinion beside google/fhir, which knows the structure of every resource and none of these rules.
package check

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"sort"
	"strings"
)

// maxFindings bounds the answer.
const maxFindings = 100

// maxDepth bounds the nesting of what is read: no resource of ours is deeper than 12.
const maxDepth = 64

// Bundle gives what is wrong with a Bundle, one sentence each with the place, or nothing. It never quotes a value but
// codes of code systems.
func Bundle(data []byte) []string {
	c := &checker{full: map[string]string{}}
	root, ok := c.parse(data)
	if !ok {
		return c.findings
	}
	c.bundle(root)
	return c.findings
}

// Outcome is the same for an OperationOutcome.
func Outcome(data []byte) []string {
	c := &checker{}
	root, ok := c.parse(data)
	if !ok {
		return c.findings
	}
	o := root.object()
	if o.str("resourceType") != "OperationOutcome" {
		c.add("", "is no OperationOutcome")
	}
	issues := o.list("issue")
	if len(issues) == 0 {
		c.add("issue", "an OperationOutcome has at least one issue")
	}
	for i, n := range issues {
		at := fmt.Sprintf("issue[%d]", i)
		c.enum(at+".severity", n.object().str("severity"), "fatal", "error", "warning", "information")
		if n.object().str("code") == "" {
			c.add(at, "has no code")
		}
	}
	return c.findings
}

type checker struct {
	findings []string
	full     map[string]string // fullUrl → resource type
}

func (c *checker) add(at, format string, args ...any) {
	if len(c.findings) < maxFindings {
		c.findings = append(c.findings, strings.TrimSpace(at+" "+fmt.Sprintf(format, args...)))
	}
}

// node is one JSON value: object, list, string, json.Number or bool.
type node struct{ v any }

type object struct {
	keys []string
	at   map[string]node
}

func (n node) object() *object {
	if o, ok := n.v.(*object); ok {
		return o
	}
	return &object{}
}

func (n node) list() []node { l, _ := n.v.([]node); return l }

func (o *object) has(key string) bool       { _, ok := o.at[key]; return ok }
func (o *object) str(key string) string     { s, _ := o.at[key].v.(string); return s }
func (o *object) list(key string) []node    { return o.at[key].list() }
func (o *object) object(key string) *object { return o.at[key].object() }

// value gives the member of a choice element, as value[x], and its name.
func (o *object) choice(prefix string) (name string, n node) {
	for _, k := range o.keys {
		if strings.HasPrefix(k, prefix) && len(k) > len(prefix) && k[len(prefix)] >= 'A' && k[len(prefix)] <= 'Z' {
			return k, o.at[k]
		}
	}
	return "", node{}
}

// parse reads JSON, keeping the text of numbers and the order of keys.
func (c *checker) parse(data []byte) (node, bool) {
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	n, err := c.read(d, "", 0)
	if err != nil {
		c.add("", "cannot be read as JSON: %v", err)
		return node{}, false
	}
	if _, err := d.Token(); err != io.EOF {
		c.add("", "has bytes after its end")
	}
	return n, true
}

func (c *checker) read(d *json.Decoder, at string, depth int) (node, error) {
	if depth > maxDepth {
		return node{}, fmt.Errorf("nested deeper than %d", maxDepth)
	}
	t, err := d.Token()
	if err != nil {
		return node{}, err
	}
	switch t := t.(type) {
	case json.Delim:
		if t == '{' {
			o := &object{at: map[string]node{}}
			for d.More() {
				k, err := d.Token()
				if err != nil {
					return node{}, err
				}
				key := k.(string)
				place := at + "." + key
				if at == "" {
					place = key
				}
				v, err := c.read(d, place, depth+1)
				if err != nil {
					return node{}, err
				}
				if o.has(key) {
					c.add(place, "stands twice in its object")
				}
				o.keys, o.at[key] = append(o.keys, key), v
			}
			if len(o.keys) == 0 {
				c.add(at, "is an empty object")
			}
			_, err := d.Token()
			return node{o}, err
		}
		l := []node{}
		for d.More() {
			v, err := c.read(d, fmt.Sprintf("%s[%d]", at, len(l)), depth+1)
			if err != nil {
				return node{}, err
			}
			l = append(l, v)
		}
		if len(l) == 0 {
			c.add(at, "is an empty array")
		}
		_, err := d.Token()
		return node{l}, err
	case string:
		if t == "" {
			c.add(at, "is an empty string")
		} else if strings.TrimSpace(t) == "" {
			c.add(at, "is a blank string")
		}
		return node{t}, nil
	case nil:
		c.add(at, "is null")
	}
	return node{t}, nil
}

func (c *checker) enum(at, value string, allowed ...string) {
	for _, a := range allowed {
		if value == a {
			return
		}
	}
	c.add(at, "is not one of %s", strings.Join(allowed, ", "))
}

var (
	idForm       = regexp.MustCompile(`^[A-Za-z0-9\-.]{1,64}$`)
	uuidForm     = regexp.MustCompile(`^urn:uuid:[0-9a-f]{8}-[0-9a-f]{4}-[1-8][0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	dateTimeForm = regexp.MustCompile(`^\d{4}(-\d\d(-\d\d(T\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d))?)?)?$`)
	instantForm  = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$`)
	dateForm     = regexp.MustCompile(`^\d{4}(-\d\d(-\d\d)?)?$`)
	mdcForm      = regexp.MustCompile(`^[1-9]\d{0,8}$`)
)

func (c *checker) bundle(root node) {
	b := root.object()
	if b.str("resourceType") != "Bundle" {
		c.add("", "is no Bundle")
		return
	}
	c.enum("Bundle.type", b.str("type"), "document", "message", "transaction", "transaction-response", "batch", "batch-response", "history", "searchset", "collection")
	if s := b.str("timestamp"); s != "" && !instantForm.MatchString(s) {
		c.add("Bundle.timestamp", "is no instant")
	}
	entries := b.list("entry")
	for i, e := range entries {
		at := fmt.Sprintf("entry[%d]", i)
		full, r := e.object().str("fullUrl"), e.object().object("resource")
		typ := r.str("resourceType")
		switch {
		case full == "":
			c.add(at, "has no fullUrl")
		case strings.Contains(full, "/_history/"):
			c.add(at, "has a version-specific fullUrl (bdl-8)")
		case c.full[full] != "":
			c.add(at, "has the fullUrl of an earlier entry (bdl-7)")
		case strings.HasPrefix(full, "urn:uuid:") && !uuidForm.MatchString(full):
			c.add(at, "has a fullUrl that is no UUID")
		case strings.HasPrefix(full, "urn:uuid:") && r.has("id") && "urn:uuid:"+r.str("id") != full:
			c.add(at, "has a fullUrl that is not its resource's id")
		}
		if typ == "" {
			c.add(at, "has no resource")
		}
		c.full[full] = typ
	}
	for i, e := range entries {
		r := e.object().object("resource")
		at := fmt.Sprintf("entry[%d].%s", i, r.str("resourceType"))
		if r.has("id") && !idForm.MatchString(r.str("id")) {
			c.add(at, "has an id of a form that is not allowed")
		}
		c.walk(at, node{r}, "")
		switch r.str("resourceType") {
		case "Observation":
			c.observation(at, r)
		case "Patient":
			if r.has("gender") {
				c.enum(at+".gender", r.str("gender"), "male", "female", "other", "unknown")
			}
			if s := r.str("birthDate"); s != "" && !dateForm.MatchString(s) {
				c.add(at+".birthDate", "is no date")
			}
			if name, _ := r.choice("deceased"); r.has("deceasedBoolean") && r.has("deceasedDateTime") {
				c.add(at+"."+name, "stands beside another deceased[x]")
			}
			for _, n := range r.list("name") {
				if n.object().has("use") {
					c.enum(at+".name.use", n.object().str("use"), "usual", "official", "temp", "nickname", "anonymous", "old", "maiden")
				}
			}
			for _, n := range r.list("telecom") {
				t := n.object()
				if t.has("value") && !t.has("system") && !t.has("_system") {
					c.add(at+".telecom", "has a value without a system (cpt-2)")
				}
				if t.has("system") {
					c.enum(at+".telecom.system", t.str("system"), "phone", "fax", "email", "pager", "url", "sms", "other")
				}
				if t.has("use") {
					c.enum(at+".telecom.use", t.str("use"), "home", "work", "temp", "old", "mobile")
				}
			}
			for _, n := range r.list("address") {
				if n.object().has("use") {
					c.enum(at+".address.use", n.object().str("use"), "home", "work", "temp", "old", "billing")
				}
			}
			for _, n := range r.list("link") {
				c.enum(at+".link.type", n.object().str("type"), "replaced-by", "replaces", "refer", "seealso")
			}
		case "Encounter":
			c.enum(at+".status", r.str("status"), "planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled", "entered-in-error", "unknown")
			if !r.has("class") {
				c.add(at, "has no class")
			}
			for _, n := range r.list("participant") {
				if p := n.object(); !p.has("type") && !p.has("individual") {
					c.add(at+".participant", "has neither type nor individual (enc-1)")
				}
			}
			for _, n := range r.list("location") {
				if !n.object().has("location") {
					c.add(at+".location", "names no location")
				}
				c.enum(at+".location.status", n.object().str("status"), "planned", "active", "reserved", "completed")
			}
		case "DeviceMetric":
			c.enum(at+".category", r.str("category"), "measurement", "setting", "calculation", "unspecified")
			if !r.has("type") {
				c.add(at, "has no type")
			}
		case "RelatedPerson":
			if !r.has("patient") {
				c.add(at, "names no patient")
			}
			if r.has("gender") {
				c.enum(at+".gender", r.str("gender"), "male", "female", "other", "unknown")
			}
		case "PractitionerRole":
			if !r.has("practitioner") && !r.has("organization") {
				c.add(at, "names nobody")
			}
		case "Organization":
			if !r.has("name") && !r.has("identifier") {
				c.add(at, "has neither name nor identifier (org-1)")
			}
		case "Device":
			for _, n := range r.list("deviceName") {
				c.enum(at+".deviceName.type", n.object().str("type"), "udi-label-name", "user-friendly-name", "patient-reported-name", "manufacturer-name", "model-name", "other")
			}
		case "Provenance":
			if len(r.list("target")) == 0 || len(r.list("agent")) == 0 {
				c.add(at, "has no target or no agent")
			}
			if !instantForm.MatchString(r.str("recorded")) && !r.has("_recorded") {
				c.add(at+".recorded", "is no instant")
			}
		}
	}
}

// walk checks what holds wherever it stands: references, quantities, codings, times.
func (c *checker) walk(at string, n node, key string) {
	for i, x := range n.list() {
		c.walk(fmt.Sprintf("%s[%d]", at, i), x, key)
	}
	o, ok := n.v.(*object)
	if !ok {
		return
	}
	if ref := o.str("reference"); ref != "" && c.full[ref] == "" {
		c.add(at, "refers to what is not in the Bundle")
	}
	if strings.HasSuffix(key, "Quantity") || key == "low" || key == "high" || key == "origin" || key == "numerator" || key == "denominator" {
		c.quantity(at, o, key)
	}
	if key == "coding" || key == "security" {
		c.coding(at, o)
	}
	if key == "valueAttachment" && o.has("data") {
		if !o.has("contentType") {
			c.add(at, "is an attachment with data of no type (att-1)")
		}
		if _, err := base64.StdEncoding.DecodeString(o.str("data")); err != nil {
			c.add(at+".data", "is no base64")
		}
	}
	if key == "identifier" && o.str("value") == "" {
		c.add(at, "is an identifier without a value")
	}
	if key == "extension" {
		values := 0
		for _, k := range o.keys {
			if strings.HasPrefix(k, "value") {
				values++
			}
		}
		if o.str("url") == "" || values != 1 && !o.has("extension") || values > 0 && o.has("extension") {
			c.add(at, "is an extension without url, or not with exactly a value or extensions (ext-1)")
		}
	}
	for _, k := range o.keys {
		c.walk(at+"."+k, o.at[k], k)
	}
}

func (c *checker) quantity(at string, o *object, key string) {
	if o.has("code") && o.str("system") == "" {
		c.add(at, "has a code without a system (qty-3)")
	}
	if v, ok := o.at["value"]; ok {
		if _, number := v.v.(json.Number); !number {
			c.add(at, "has a value that is no number")
		}
	}
	if o.has("comparator") {
		c.enum(at+".comparator", o.str("comparator"), "<", "<=", ">=", ">")
		if key == "low" || key == "high" || key == "origin" {
			c.add(at, "is a SimpleQuantity with a comparator (sqty-1)")
		}
	}
	if o.str("system") == systemUCUM {
		if err := UCUM(o.str("code")); err != nil {
			c.add(at+".code", "%v", err)
		}
	}
}

const (
	systemUCUM  = "http://unitsofmeasure.org"
	systemLOINC = "http://loinc.org"
	systemMDC   = "urn:iso:std:iso:11073:10101"
)

var enumSystems = map[string][]string{
	"http://terminology.hl7.org/CodeSystem/data-absent-reason":   {"unknown", "asked-unknown", "temp-unknown", "not-asked", "asked-declined", "masked", "not-applicable", "unsupported", "as-text", "error", "not-a-number", "negative-infinity", "positive-infinity", "not-performed", "not-permitted"},
	"http://terminology.hl7.org/CodeSystem/observation-category": {"social-history", "vital-signs", "imaging", "laboratory", "procedure", "survey", "exam", "therapy", "activity"},
}

func (c *checker) coding(at string, o *object) {
	code := o.str("code")
	if code != "" && (strings.TrimSpace(code) != code || strings.Contains(code, "  ") || strings.ContainsAny(code, "\t\r\n")) {
		c.add(at, "has a code with blanks where none may stand")
	}
	if code == "" && o.str("display") == "" {
		c.add(at, "has neither code nor display")
	}
	switch system := o.str("system"); system {
	case systemLOINC:
		if !loincDigit(code) {
			c.add(at, "has a LOINC code with a wrong check digit")
		}
	case systemMDC:
		if !mdcForm.MatchString(code) {
			c.add(at, "has an MDC code that is no number")
		}
	case systemUCUM:
		if err := UCUM(code); err != nil {
			c.add(at, "%v", err)
		}
	default:
		if allowed := enumSystems[system]; allowed != nil {
			c.enum(at+".code", code, allowed...)
		}
	}
}

// loincDigit checks the form and the mod 10 check digit of a LOINC code.
func loincDigit(code string) bool {
	number, check, ok := strings.Cut(code, "-")
	if !ok || number == "" || len(number) > 7 || len(check) != 1 {
		return false
	}
	sum := 0
	for i := 0; i < len(number); i++ {
		d := int(number[len(number)-1-i] - '0')
		if d < 0 || d > 9 {
			return false
		}
		if i%2 == 0 {
			d *= 2
			if d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return int(check[0]-'0') == (10-sum%10)%10
}

func (c *checker) observation(at string, o *object) {
	c.enum(at+".status", o.str("status"), "registered", "preliminary", "final", "amended", "corrected", "cancelled", "entered-in-error", "unknown")
	code := o.object("code")
	if len(code.list("coding")) == 0 && code.str("text") == "" {
		c.add(at, "has no code")
	}
	valueName, value := o.choice("value")
	if valueName != "" && o.has("dataAbsentReason") {
		c.add(at, "has a value and a dataAbsentReason (obs-6)")
	}
	components := o.list("component")
	for i, n := range components {
		p := n.object()
		place := fmt.Sprintf("%s.component[%d]", at, i)
		name, _ := p.choice("value")
		if name != "" && p.has("dataAbsentReason") {
			c.add(place, "has a value and a dataAbsentReason")
		}
		if valueName != "" && shareCoding(code, p.object("code")) {
			c.add(place, "has the code of the Observation, which has a value (obs-7)")
		}
		c.ranges(place, p)
	}
	c.ranges(at, o)
	if name, n := o.choice("effective"); name == "effectiveDateTime" {
		s, _ := n.v.(string)
		if !dateTimeForm.MatchString(s) {
			c.add(at+".effectiveDateTime", "is no dateTime")
		}
	}
	if valueName == "valueDateTime" {
		if s, _ := value.v.(string); !dateTimeForm.MatchString(s) {
			c.add(at+".valueDateTime", "is no dateTime")
		}
	}
	if s := value.object(); valueName == "valueSampledData" {
		for _, k := range []string{"origin", "period", "dimensions"} {
			if !s.has(k) {
				c.add(at+".valueSampledData", "has no %s", k)
			}
		}
	}
	c.vitalSigns(at, o, valueName)
}

func (c *checker) ranges(at string, o *object) {
	for _, n := range o.list("referenceRange") {
		if r := n.object(); !r.has("low") && !r.has("high") && !r.has("text") {
			c.add(at+".referenceRange", "has neither low nor high nor text (obs-3)")
		}
	}
}

func shareCoding(a, b *object) bool {
	for _, x := range a.list("coding") {
		for _, y := range b.list("coding") {
			if x.object().str("code") == y.object().str("code") && x.object().str("system") == y.object().str("system") {
				return true
			}
		}
	}
	return false
}

// profile is what a vital-signs profile of FHIR R4 fixes.
type profile struct {
	code  string
	units []string
}

// profiles by their name in the canonical URL (FHIR R4 observation-vitalsigns.html).
var profiles = map[string]profile{
	"heartrate":  {"8867-4", []string{"/min"}},
	"resprate":   {"9279-1", []string{"/min"}},
	"oxygensat":  {"2708-6", []string{"%"}},
	"bodytemp":   {"8310-5", []string{"Cel", "[degF]"}},
	"bodyweight": {"29463-7", []string{"g", "kg", "[lb_av]"}},
	"bodyheight": {"8302-2", []string{"cm", "[in_i]"}},
	"bp":         {"85354-9", nil},
	"vitalsigns": {},
}

const profileBase = "http://hl7.org/fhir/StructureDefinition/"

func loincCodes(o *object) []string {
	var codes []string
	for _, n := range o.list("coding") {
		if n.object().str("system") == systemLOINC {
			codes = append(codes, n.object().str("code"))
		}
	}
	return codes
}

// vitalSigns checks an Observation that claims a vital-signs profile, or carries a code that makes it one.
func (c *checker) vitalSigns(at string, o *object, valueName string) {
	claimed := map[string]bool{}
	for _, n := range o.object("meta").list("profile") {
		if s, _ := n.v.(string); strings.HasPrefix(s, profileBase) {
			name := strings.TrimPrefix(s, profileBase)
			if _, known := profiles[name]; known {
				claimed[name] = true
			}
		}
	}
	codes := loincCodes(o.object("code"))
	for name, p := range profiles {
		for _, k := range codes {
			if k == p.code {
				claimed[name] = true
			}
		}
	}
	if len(claimed) == 0 {
		return
	}
	vital := false
	for _, cat := range o.list("category") {
		for _, n := range cat.object().list("coding") {
			vital = vital || n.object().str("code") == "vital-signs" && n.object().str("system") == "http://terminology.hl7.org/CodeSystem/observation-category"
		}
	}
	if !vital {
		c.add(at, "is a vital sign without the category vital-signs")
	}
	if !o.has("subject") {
		c.add(at, "is a vital sign without a subject")
	}
	name, effective := o.choice("effective")
	if s, _ := effective.v.(string); name == "" && !o.has("_effectiveDateTime") || name == "effectiveDateTime" && len(s) < 8 {
		c.add(at, "is a vital sign without a time of at least a day (vs-1)")
	}
	components := o.list("component")
	if len(components) == 0 && !o.has("hasMember") && valueName == "" && !o.has("dataAbsentReason") {
		c.add(at, "is a vital sign with neither value nor dataAbsentReason (vs-2)")
	}
	for i, n := range components {
		if v, _ := n.object().choice("value"); v == "" && !n.object().has("dataAbsentReason") {
			c.add(fmt.Sprintf("%s.component[%d]", at, i), "has neither value nor dataAbsentReason (vs-3)")
		}
	}
	names := make([]string, 0, len(claimed))
	for name := range claimed {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		p := profiles[name]
		if p.code != "" {
			n := 0
			for _, k := range codes {
				if k == p.code {
					n++
				}
			}
			if n != 1 {
				c.add(at, "claims profile %s and has not its code %s once", name, p.code)
			}
		}
		switch {
		case name == "bp":
			c.bloodPressure(at, o, valueName)
		case p.units != nil && valueName != "":
			if valueName != "valueQuantity" {
				c.add(at, "claims profile %s and has no Quantity", name)
			} else {
				c.fixedUnit(at+".valueQuantity", o.object("valueQuantity"), p.units)
			}
		}
	}
}

func (c *checker) fixedUnit(at string, q *object, units []string) {
	if !q.has("value") || q.str("unit") == "" || q.str("system") != systemUCUM {
		c.add(at, "needs value, unit and the system UCUM")
	}
	c.enum(at+".code", q.str("code"), units...)
}

// bloodPressure checks the slices of the bp profile.
func (c *checker) bloodPressure(at string, o *object, valueName string) {
	if valueName != "" {
		c.add(at, "is a blood pressure panel with a value of its own")
	}
	count := map[string]int{}
	for i, n := range o.list("component") {
		p := n.object()
		for _, code := range loincCodes(p.object("code")) {
			count[code]++
			if code == "8480-6" || code == "8462-4" {
				if name, v := p.choice("value"); name != "" {
					if name != "valueQuantity" {
						c.add(fmt.Sprintf("%s.component[%d]", at, i), "has no Quantity")
					}
					c.fixedUnit(fmt.Sprintf("%s.component[%d].%s", at, i, name), v.object(), []string{"mm[Hg]"})
				}
			}
		}
	}
	for _, code := range []string{"8480-6", "8462-4"} {
		if count[code] != 1 {
			c.add(at, "is a blood pressure panel with %d components %s", count[code], code)
		}
	}
}
