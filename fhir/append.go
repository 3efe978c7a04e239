package fhir

import "unicode/utf8"

// An object's members are appended one after the other; comma writes the comma that is due before the next one.
func comma(b []byte) []byte {
	if n := len(b); n > 0 {
		switch b[n-1] {
		case '{', '[':
		default:
			return append(b, ',')
		}
	}
	return b
}

func key(b []byte, name string) []byte {
	b = comma(b)
	b = append(b, '"')
	b = append(b, name...)
	return append(b, '"', ':')
}

// text appends the member name with s as a string, unless s is empty.
func text(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return AppendString(key(b, name), s)
}

// number appends the member name with the decimal s as a bare number, unless s is empty.
func number(b []byte, name, s string) []byte {
	if s == "" {
		return b
	}
	return append(key(b, name), s...)
}

func open(b []byte, name string) []byte { return append(key(b, name), '{') }

// safe says which ASCII bytes stand in a JSON string as they are.
var safe = func() (t [256]bool) {
	for c := 0x20; c < 0x80; c++ {
		t[c] = c != '"' && c != '\\' && c != 0x7f
	}
	return
}()

const hex = "0123456789abcdef"

// AppendString appends s as a JSON string. Control characters that a FHIR string may not hold (all below U+0020
// but tab, CR, LF; FHIR R4 datatypes.html#string) become U+FFFD, and so do bytes that are not UTF-8.
func AppendString(b []byte, s string) []byte {
	b = append(b, '"')
	start := 0
	for i := 0; i < len(s); {
		c := s[i]
		if safe[c] {
			i++
			continue
		}
		if c < utf8.RuneSelf {
			b = append(b, s[start:i]...)
			switch c {
			case '"', '\\':
				b = append(b, '\\', c)
			case '\n':
				b = append(b, '\\', 'n')
			case '\r':
				b = append(b, '\\', 'r')
			case '\t':
				b = append(b, '\\', 't')
			case 0x7f:
				b = append(b, `\u007f`...)
			default:
				b = append(b, "\uFFFD"...)
			}
			i++
			start = i
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if (r == utf8.RuneError && n == 1) || r == '\u2028' || r == '\u2029' {
			b = append(b, s[start:i]...)
			if n == 1 {
				b = append(b, "\uFFFD"...)
			} else {
				b = append(b, '\\', 'u', '2', '0', '2', hex[r&15])
			}
			start = i + n
		}
		i += n
	}
	b = append(b, s[start:]...)
	return append(b, '"')
}

func (c Coding) empty() bool { return c == Coding{} }

func (c Coding) append(b []byte) []byte {
	b = append(b, '{')
	b = text(b, "system", c.System)
	b = text(b, "version", c.Version)
	b = text(b, "code", c.Code)
	b = text(b, "display", c.Display)
	return append(b, '}')
}

func (c *CodeableConcept) empty() bool { return len(c.Coding) == 0 && c.Text == "" }

func (c *CodeableConcept) append(b []byte) []byte {
	b = append(b, '{')
	if len(c.Coding) > 0 {
		b = append(key(b, "coding"), '[')
		for i := range c.Coding {
			b = c.Coding[i].append(comma(b))
		}
		b = append(b, ']')
	}
	b = text(b, "text", c.Text)
	return append(b, '}')
}

func concept(b []byte, name string, c *CodeableConcept) []byte {
	if c.empty() {
		return b
	}
	return c.append(key(b, name))
}

func concepts(b []byte, name string, cs []CodeableConcept) []byte {
	if len(cs) == 0 {
		return b
	}
	b = append(key(b, name), '[')
	for i := range cs {
		b = cs[i].append(comma(b))
	}
	return append(b, ']')
}

func (i *Identifier) append(b []byte) []byte {
	b = append(b, '{')
	b = text(b, "use", i.Use)
	if i.TypeCode != "" {
		b = open(b, "type")
		b = append(key(b, "coding"), '[')
		b = append(Coding{System: SystemIdentifierType, Code: i.TypeCode}.append(b), ']')
		b = append(text(b, "text", i.TypeText), '}')
	}
	b = text(b, "system", i.System)
	b = text(b, "value", i.Value)
	b = period(b, "period", i.Period)
	if i.Assigner != "" {
		b = open(b, "assigner")
		b = text(b, "display", i.Assigner)
		b = append(b, '}')
	}
	return append(b, '}')
}

func identifiers(b []byte, ids []Identifier) []byte {
	if len(ids) == 0 {
		return b
	}
	b = append(key(b, "identifier"), '[')
	for i := range ids {
		b = ids[i].append(comma(b))
	}
	return append(b, ']')
}

func (q *Quantity) empty() bool { return q.Value == "" && q.Unit == "" && q.Code == "" }

func (q *Quantity) append(b []byte) []byte {
	b = append(b, '{')
	b = number(b, "value", q.Value)
	b = text(b, "comparator", q.Comparator)
	b = text(b, "unit", q.Unit)
	if q.Code != "" { // qty-3: a code needs its system; a system alone says nothing
		b = text(b, "system", q.System)
		b = text(b, "code", q.Code)
	}
	return append(b, '}')
}

func quantity(b []byte, name string, q *Quantity) []byte {
	if q.empty() {
		return b
	}
	return q.append(key(b, name))
}

func period(b []byte, name string, p Period) []byte {
	if p == (Period{}) {
		return b
	}
	b = open(b, name)
	b = text(b, "start", p.Start)
	b = text(b, "end", p.End)
	return append(b, '}')
}

func reference(b []byte, name string, r *Reference) []byte {
	if *r == (Reference{}) {
		return b
	}
	b = open(b, name)
	if r.Absent != "" {
		b = absentExtension(b, r.Absent)
	}
	b = text(b, "reference", r.Reference)
	b = text(b, "display", r.Display)
	return append(b, '}')
}

// absentExtension appends the member extension with a data-absent-reason.
func absentExtension(b []byte, code string) []byte {
	b = append(key(b, "extension"), '[')
	b = (&Extension{URL: ExtensionDataAbsent, Code: code}).append(b)
	return append(b, ']')
}

func absentReason(b []byte, code string) []byte {
	if code == "" {
		return b
	}
	b = open(b, "dataAbsentReason")
	b = append(key(b, "coding"), '[')
	b = Coding{System: SystemDataAbsent, Code: code}.append(b)
	return append(b, ']', '}')
}

func (e *Extension) append(b []byte) []byte {
	b = append(b, '{')
	b = text(b, "url", e.URL)
	switch {
	case e.Code != "":
		b = text(b, "valueCode", e.Code)
	case e.DateTime != "":
		b = text(b, "valueDateTime", e.DateTime)
	case e.Attachment != nil:
		b = e.Attachment.append(key(b, "valueAttachment"))
	default:
		b = text(b, "valueString", e.String)
	}
	return append(b, '}')
}

func extensions(b []byte, es []Extension) []byte {
	if len(es) == 0 {
		return b
	}
	b = append(key(b, "extension"), '[')
	for i := range es {
		b = es[i].append(comma(b))
	}
	return append(b, ']')
}

func (r *ReferenceRange) empty() bool { return r.Low.empty() && r.High.empty() && r.Text == "" } // obs-3

func referenceRange(b []byte, r *ReferenceRange) []byte {
	if r.empty() {
		return b
	}
	b = append(key(b, "referenceRange"), '[', '{')
	b = quantity(b, "low", &r.Low)
	b = quantity(b, "high", &r.High)
	b = concept(b, "type", &r.Type)
	b = text(b, "text", r.Text)
	return append(b, '}', ']')
}

// Empty says that there is no value.
func (v *Value) Empty() bool {
	return v.Quantity.empty() && v.Concept.empty() && v.String == "" && v.Sampled == nil && v.RangeLow.empty() && v.RangeHigh.empty() &&
		v.Numerator.empty() && v.Time == "" && v.DateTime == "" && v.Period == Period{}
}

func (v *Value) append(b []byte) []byte {
	switch {
	case !v.Quantity.empty():
		return quantity(b, "valueQuantity", &v.Quantity)
	case v.Sampled != nil:
		s := v.Sampled
		b = open(b, "valueSampledData")
		b = quantity(b, "origin", &s.Origin)
		b = number(b, "period", s.Period)
		b = number(b, "factor", s.Factor)
		b = number(b, "dimensions", s.Dimensions)
		b = text(b, "data", s.Data)
		return append(b, '}')
	case !v.Concept.empty():
		return concept(b, "valueCodeableConcept", &v.Concept)
	case !v.RangeLow.empty() || !v.RangeHigh.empty():
		b = open(b, "valueRange")
		b = quantity(b, "low", &v.RangeLow)
		b = quantity(b, "high", &v.RangeHigh)
		return append(b, '}')
	case !v.Numerator.empty():
		b = open(b, "valueRatio")
		b = quantity(b, "numerator", &v.Numerator)
		b = quantity(b, "denominator", &v.Denomin)
		return append(b, '}')
	case v.Time != "":
		return text(b, "valueTime", v.Time)
	case v.DateTime != "":
		return text(b, "valueDateTime", v.DateTime)
	case v.Period != Period{}:
		return period(b, "valuePeriod", v.Period)
	}
	return text(b, "valueString", v.String)
}

// names appends Patient.name and the like.
func names(b []byte, list []HumanName) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(key(b, "name"), '[')
	for i := range list {
		n := &list[i]
		b = append(comma(b), '{')
		b = text(b, "use", n.Use)
		b = text(b, "text", n.Text)
		b = text(b, "family", n.Family)
		b = words(b, "given", n.Given, n.Middle)
		b = words(b, "prefix", n.Prefix)
		b = words(b, "suffix", n.Suffix, n.Degree, n.Professional)
		b = append(period(b, "period", n.Period), '}')
	}
	return append(b, ']')
}

// telecoms appends Patient.telecom and the like.
func telecoms(b []byte, list []ContactPoint) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(key(b, "telecom"), '[')
	for i := range list {
		t := &list[i]
		b = append(comma(b), '{')
		b = text(b, "system", t.System)
		if t.System == "" && t.SystemAbsent != "" {
			b = append(key(b, "_system"), '{')
			b = append(absentExtension(b, t.SystemAbsent), '}')
		}
		b = text(b, "value", t.Value)
		b = append(text(b, "use", t.Use), '}')
	}
	return append(b, ']')
}

// addresses appends Patient.address and the like.
func addresses(b []byte, list []Address) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(key(b, "address"), '[')
	for i := range list {
		a := &list[i]
		b = append(comma(b), '{')
		b = text(b, "use", a.Use)
		b = text(b, "type", a.Type)
		b = words(b, "line", a.Line[:]...)
		b = text(b, "city", a.City)
		b = text(b, "district", a.District)
		b = text(b, "state", a.State)
		b = text(b, "postalCode", a.PostalCode)
		b = text(b, "country", a.Country)
		b = append(period(b, "period", a.Period), '}')
	}
	return append(b, ']')
}

// references appends an array of references.
func references(b []byte, name string, list []string) []byte {
	if len(list) == 0 {
		return b
	}
	b = append(key(b, name), '[')
	for _, s := range list {
		b = append(comma(b), '{')
		b = append(text(b, "reference", s), '}')
	}
	return append(b, ']')
}

func (a *Attachment) append(b []byte) []byte {
	b = append(b, '{')
	b = text(b, "contentType", a.ContentType)
	b = text(b, "data", a.Data)
	b = text(b, "url", a.URL)
	return append(b, '}')
}
