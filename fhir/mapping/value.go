package mapping

import (
	"bytes"
	"strconv"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// readValue reads OBX-5 by OBX-2 (v2-to-FHIR IG, OBX[Observation] rows OBX-5). A value that its type cannot hold is kept
// as text; nothing is cut.
func (c *Converter) readValue(r *row) {
	v := r.segment.Field(5)
	if v.Empty() || v.Null() {
		r.absent = "unknown"
		return
	}
	switch string(r.segment.Field(2).Raw()) {
	case "NM", "SI":
		c.readNumber(r, v, true)
	case "ST", "TX", "FT", "":
		// Some monitors send their numbers as text, or no type at all.
		c.readNumber(r, v, false)
	case "SN":
		c.readStructured(r, v)
	case "CE", "CWE", "CNE", "CF":
		if v.Reps() == 1 {
			c.readCoded(r, v)
		} else {
			c.readText(r, v)
		}
	case "IS", "ID":
		c.readText(r, v)
	case "DT", "DTM", "TS":
		c.readDateTime(r, v)
	case "DR":
		c.readPeriod(r, v)
	case "NR":
		c.readRange(r, v)
	case "TM":
		c.readTime(r, v)
	case "ED":
		c.readDocument(r, v)
	case "RP":
		c.readPointer(r, v)
	case "NA", "MA":
		r.isWave = true
		c.readText(r, v) // becomes samples once rate and resolution are known
	default:
		c.readText(r, v)
	}
	if !r.hasValue() && r.absent == "" {
		r.absent = "unknown" // blanks only
	}
}

func (c *Converter) readText(r *row, v hl7.Value) {
	s := c.text(v)
	if oneOf(s, c.d.absent...) {
		r.absent = "unknown"
		return
	}
	r.value.String = s
}

// readNumber reads a number. declared says that the type is a number and text therefore a deviation.
func (c *Converter) readNumber(r *row, v hl7.Value, declared bool) {
	if v.Reps() > 1 || v.Comps() > 1 {
		if declared {
			c.finding(r, EventParts, 5, "a number with further parts: kept as text")
		}
		c.readText(r, v)
		return
	}
	s := c.text(v)
	if !declared && !(r.code.term != nil && len(r.code.term.dimensions) > 0) && !(r.code.loinc != nil) {
		c.readText(r, v)
		return
	}
	number, bent, ok := fhir.Decimal(s)
	comparator := ""
	if !ok {
		comparator, number, bent, ok = comparedNumber(s)
	}
	if !ok && isMarks(s) {
		r.absent = "unknown"
		return
	}
	if !ok {
		c.readText(r, v)
		if declared && r.absent == "" {
			c.finding(r, EventNotANumber, 5, "text where the type is a number: kept as text")
		}
		return
	}
	if c.sentinel(r, number) {
		r.absent = "unknown"
		return
	}
	if bent {
		c.finding(r, EventNumberBent, 5, "the number was brought into the form that JSON allows")
	}
	r.numeric = true
	r.value.Quantity = r.quantity(number, comparator)
}

// isMarks says whether a number's place holds only the marks that screens show for "no value": ---, -?-, ***, ???.
func isMarks(s string) bool { return s != "" && strings.Trim(s, "-?*") == "" }

// comparedNumber reads <5, <=5, >100, >=100.
func comparedNumber(s string) (comparator, number string, bent, ok bool) {
	if len(s) < 2 || s[0] != '<' && s[0] != '>' {
		return "", "", false, false
	}
	n := 1
	if s[1] == '=' {
		n = 2
	}
	number, bent, ok = fhir.Decimal(s[n:])
	return s[:n], number, bent, ok
}

// sentinel says whether the number is one of the dialect's words for "no value". Where the code's own range holds it
// (a temperature difference of -1), it is a value.
func (c *Converter) sentinel(r *row, number string) bool {
	if len(c.d.sentinels) == 0 {
		return false
	}
	x, err := strconv.ParseFloat(number, 64)
	if err != nil {
		return false
	}
	for _, s := range c.d.sentinels {
		if x == s {
			t := r.code.term
			if t == nil {
				return !c.d.knownOnly || r.code.loinc != nil && !r.code.loinc.limits.holds(x)
			}
			return !(t.limits.hasLow && t.limits.hasHigh && t.limits.holds(x))
		}
	}
	return false
}

// readStructured reads an SN (HL7 v2.9 §2A.3.71): comparator, number, separator, number.
func (c *Converter) readStructured(r *row, v hl7.Value) {
	comparator, separator := c.text(v.Comp(1)), c.text(v.Comp(3))
	first, bent1, ok1 := fhir.Decimal(c.text(v.Comp(2)))
	second, bent2, ok2 := fhir.Decimal(c.text(v.Comp(4)))
	if comparator == "=" {
		comparator = ""
	}
	switch {
	case v.Reps() == 1 && ok1 && comparator == "" && separator == "" && v.Comp(4).Empty() && c.sentinel(r, first):
		r.absent = "unknown"
		return
	case v.Reps() > 1 || v.Comps() > 4 || !ok1:
	case separator == "" && v.Comp(4).Empty() && oneOf(comparator, "", "<", "<=", ">", ">="):
		r.numeric = true
		r.value.Quantity = r.quantity(first, comparator)
	case separator == "-" && ok2 && comparator == "":
		r.value.RangeLow, r.value.RangeHigh = r.quantity(first, ""), r.quantity(second, "")
	case (separator == ":" || separator == "/") && ok2 && comparator == "":
		r.value.Numerator, r.value.Denomin = r.quantity(first, ""), r.quantity(second, "") // v2-to-FHIR IG, OBX-6
	}
	if r.value.Empty() {
		c.readText(r, v)
	} else if bent1 || bent2 {
		c.finding(r, EventNumberBent, 5, "the number was brought into the form that JSON allows")
	}
}

// readCoded reads a CE, CWE, CNE or CF.
func (c *Converter) readCoded(r *row, v hl7.Value) {
	if r.value.Concept = c.coded(v); len(r.value.Concept.Coding) == 0 && r.value.Concept.Text == "" {
		c.readText(r, v)
	}
}

// coded makes a CodeableConcept of a CE, CWE, CNE or CF (v2-to-FHIR IG, CWE[CodeableConcept]). Codes stand under the
// local system of their coding system unless number and name are a known pair of ISO/IEEE 11073-10101.
func (c *Converter) coded(v hl7.Value) fhir.CodeableConcept {
	first := len(c.codings)
	for i, at := range [...]int{1, 4, 10} {
		code, display, system := c.part(v.Comp(at)), c.part(v.Comp(at+1)), c.text(v.Comp(at+2))
		if code == "" && display == "" {
			continue
		}
		k := fhir.Coding{System: codeSystem(system, code), Display: display, Version: c.part(v.Comp([...]int{7, 8, 13}[i]))}
		if k.System == "" {
			k.System = c.localSystem(system)
		}
		if t := termByName[display]; system == "MDC" && t != nil && t.coding.Code == code {
			k = t.coding
		} else if isCode(code) {
			k.Code = code
		} else if code != "" && display == "" {
			k.Display = code
		}
		c.codings = append(c.codings, k)
	}
	k := fhir.CodeableConcept{Coding: c.codings[first:len(c.codings):len(c.codings)]}
	if k.Text = c.text(v.Comp(9)); k.Text == "" && len(k.Coding) > 0 {
		k.Text = k.Coding[0].Display
	}
	return k
}

// codeSystem gives the URI of a coding system of HL7 table 0396 whose codes may stand as a coded value under it (v2-to-FHIR
// IG, CWE[CodeableConcept]), "" where the code cannot be one of it.
func codeSystem(system, code string) string {
	switch {
	case system == "LN" && isLOINC(code):
		return fhir.SystemLOINC
	case system == "SCT" && len(code) >= 6 && len(code) <= 18 && strings.Trim(code, "0123456789") == "":
		return "http://snomed.info/sct"
	case system == "I10" && code != "":
		return "http://hl7.org/fhir/sid/icd-10"
	case system == "I10C" && code != "":
		return "http://hl7.org/fhir/sid/icd-10-cm"
	}
	return ""
}

// isLOINC says whether s has the form of a LOINC code: digits, a dash and the check digit of modulus 10 over them.
func isLOINC(s string) bool {
	n := len(s) - 2
	if n < 1 || n > 7 || s[n] != '-' || s[n+1] < '0' || s[n+1] > '9' {
		return false
	}
	sum := 0
	for i := 0; i < n; i++ {
		d := int(s[i]) - '0'
		if d < 0 || d > 9 {
			return false
		}
		if (n-i)%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return int(s[n+1]-'0') == (10-sum%10)%10
}

// readNote keeps an NTE as a note of the row before it (v2-to-FHIR IG, NTE[Observation]). What is noted on an order or
// a patient stands in the message that is kept beside the Bundle.
func (c *Converter) readNote(s hl7.Segment, before string) {
	if before != "OBX" || len(c.rows) == 0 || !c.rowOpen {
		return
	}
	f, r := s.Field(3), &c.rows[len(c.rows)-1]
	for i := 1; i <= f.Reps() && len(c.notes)-int(r.notes[0]) < maxNotes; i++ {
		if text := c.part(f.Rep(i)); text != "" {
			c.notes = append(c.notes, text)
		}
	}
	r.notes[1] = int32(len(c.notes))
}

// maxNotes bounds the notes of one row.
const maxNotes = 64

// readDateTime reads a DT, DTM or TS. A time that cannot be placed on the time line stays text.
func (c *Converter) readDateTime(r *row, v hl7.Value) {
	if v.Reps() == 1 {
		if st, ok := c.stampOf(v.Comp(1), r.segment, 5); ok && st.raw == "" {
			r.value.DateTime = st.text
			return
		}
	}
	c.readText(r, v)
}

// readPeriod reads a DR (v2-to-FHIR IG, DR[Period]).
func (c *Converter) readPeriod(r *row, v hl7.Value) {
	if v.Reps() == 1 && v.Comps() == 2 {
		from, ok1 := c.stampOf(v.Comp(1).Sub(1), r.segment, 5)
		to, ok2 := c.stampOf(v.Comp(2).Sub(1), r.segment, 5)
		if ok1 && ok2 && from.raw == "" && to.raw == "" && !to.before(from) {
			r.value.Period = fhir.Period{Start: from.text, End: to.text}
			return
		}
	}
	c.readText(r, v)
}

// readRange reads an NR (v2-to-FHIR IG, NR[Range]).
func (c *Converter) readRange(r *row, v hl7.Value) {
	low, bent1, ok1 := fhir.Decimal(c.text(v.Comp(1)))
	high, bent2, ok2 := fhir.Decimal(c.text(v.Comp(2)))
	if v.Reps() > 1 || v.Comps() != 2 || !ok1 || !ok2 {
		c.readText(r, v)
		return
	}
	r.value.RangeLow, r.value.RangeHigh = r.quantity(low, ""), r.quantity(high, "")
	if bent1 || bent2 {
		c.finding(r, EventNumberBent, 5, "the number was brought into the form that JSON allows")
	}
}

// readTime reads a TM without an offset: FHIR's time knows none.
func (c *Converter) readTime(r *row, v hl7.Value) {
	s := c.text(v)
	whole, fraction, _ := strings.Cut(s, ".")
	for _, layout := range [...]string{"150405", "1504", "15:04:05", "15:04"} {
		if len(whole) == len(layout) && len(fraction) <= 4 && (fraction == "" || len(layout) >= 6) && strings.Trim(fraction, "0123456789") == "" {
			if t, err := time.Parse(layout, whole); err == nil {
				if r.value.Time = t.Format("15:04:05"); fraction != "" {
					r.value.Time = c.join(r.value.Time, ".", fraction)
				}
				return
			}
		}
	}
	c.readText(r, v)
}

// facet gives the row that says something about row i: its OBX-4 is that of row i with one number more.
func (c *Converter) facet(i int, name string) *row {
	wave := &c.rows[i]
	if wave.channel == "" {
		return nil
	}
	for k := i + 1; k < len(c.rows) && k <= i+8; k++ {
		r := &c.rows[k]
		if r.isWave {
			return nil
		}
		if len(r.channel) > len(wave.channel)+1 && strings.HasPrefix(r.channel, wave.channel) && r.channel[len(wave.channel)] == '.' && r.code.display == name {
			return r
		}
	}
	return nil
}

// readSamples makes SampledData of a waveform row: samples in OBX-5, rate, resolution and the number for "invalid" in
// the facet rows that follow (IHE DEV TF Vol. 2, waveform content; FHIR R4 datatypes.html#SampledData).
func (c *Converter) readSamples(i int) {
	r := &c.rows[i]
	v := r.segment.Field(5)
	rate := c.facet(i, facetRate)
	if rate == nil || !rate.numeric || v.Reps() != 1 {
		c.finding(r, EventSampleRate, 5, "samples without a sample rate are kept as text")
		return
	}
	hz, err := strconv.ParseFloat(rate.value.Quantity.Value, 64)
	if err != nil || hz < 0.001 || hz > 1e6 {
		c.event(EventSampleRate, rate.segment, 5, "the sample rate cannot be used: samples are kept as text")
		return
	}
	resolution := c.facet(i, facetResolution)
	invalid := c.facet(i, facetInvalid)
	inop := ""
	if invalid != nil {
		if inop = invalid.value.Quantity.Value; inop == "" && invalid.absent != "" {
			inop = c.text(invalid.segment.Field(5))
		}
	}
	start := len(c.arena)
	raw, separator := v.Raw(), c.m.Delimiters().Component
	for more := true; more; {
		sample := raw
		if n := bytes.IndexByte(raw, separator); n >= 0 {
			sample, raw = raw[:n], raw[n+1:]
		} else {
			more = false
		}
		if len(c.arena) > start {
			c.arena = append(c.arena, ' ')
		}
		switch sample = bytes.TrimSpace(sample); {
		case len(sample) == 0 || string(sample) == inop:
			c.arena = append(c.arena, 'E') // FHIR R4: "E" error, no reading
		case isSample(sample):
			c.arena = append(c.arena, sample...)
		default:
			c.arena = c.arena[:start]
			c.finding(r, EventSampleRate, 5, "a sample is no decimal number: samples are kept as text")
			return
		}
	}
	data := c.since(start)
	start = len(c.arena)
	c.arena = appendPeriod(c.arena, hz)
	s := &fhir.SampledData{Period: c.since(start), Data: data, Dimensions: "1", Origin: fhir.Quantity{Value: "0"}}
	scale := r
	if resolution != nil && resolution.numeric {
		s.Factor = resolution.value.Quantity.Value
		scale = resolution
	}
	s.Origin = scale.quantity("0", "")
	r.value = fhir.Value{Sampled: s}
	rate.gone = true
	if resolution != nil && resolution.numeric {
		resolution.gone = true
	}
	if invalid != nil {
		invalid.gone = true
	}
}

// isSample: -?digits*.?digits+ (FHIR R4 SampledDataDataType).
func isSample(s []byte) bool {
	i := 0
	if len(s) > 0 && s[0] == '-' {
		i = 1
	}
	digits, dot := 0, false
	for ; i < len(s); i++ {
		switch {
		case s[i] >= '0' && s[i] <= '9':
			digits++
		case s[i] == '.' && !dot:
			dot, digits = true, 0
		default:
			return false
		}
	}
	return digits > 0
}

// appendPeriod writes 1000/hz milliseconds with up to nine decimals and no trailing zeros.
func appendPeriod(b []byte, hz float64) []byte {
	start := len(b)
	b = strconv.AppendFloat(b, 1000/hz, 'f', 9, 64)
	for len(b) > start && b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	if b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	return b
}
