package hl7

import "strings"

// Encoded is a field in standard delimiters, as it stands in a message.
// Constants may be written as they are ("ORU^R01^ORU_R01"); what comes from
// elsewhere goes through Text, Components, Subcomponents or Repetitions.
type Encoded string

// Text escapes one text.
func Text(s string) Encoded { return Encoded(StandardDelimiters.AppendEscaped(nil, s)) }

// Components joins components.
func Components(parts ...Encoded) Encoded { return join(parts, "^") }

// Subcomponents joins subcomponents.
func Subcomponents(parts ...Encoded) Encoded { return join(parts, "&") }

// Repetitions joins repetitions.
func Repetitions(parts ...Encoded) Encoded { return join(parts, "~") }

func join(parts []Encoded, by string) Encoded {
	var b strings.Builder
	for i, p := range parts {
		if i > 0 {
			b.WriteString(by)
		}
		b.WriteString(string(p))
	}
	return Encoded(b.String())
}

// Builder writes a message with the standard delimiters, in UTF-8.
type Builder struct{ buf []byte }

// NewBuilder makes an empty Builder.
func NewBuilder() *Builder { return &Builder{} }

// Segment appends a segment. For MSH, FHS and BHS the delimiters are written
// and fields begin with field 3, else with field 1. Empty fields at the end are left out.
func (b *Builder) Segment(name string, fields ...Encoded) *Builder {
	b.buf = append(b.buf, name...)
	if name == "MSH" || name == "FHS" || name == "BHS" {
		b.buf = append(b.buf, `|^~\&`...)
	}
	for len(fields) > 0 && fields[len(fields)-1] == "" {
		fields = fields[:len(fields)-1]
	}
	for _, f := range fields {
		b.buf = append(b.buf, '|')
		b.buf = append(b.buf, f...)
	}
	b.buf = append(b.buf, '\r')
	return b
}

// Bytes gives the message so far; valid until the next call.
func (b *Builder) Bytes() []byte { return b.buf }

// Reset empties the Builder and keeps its memory.
func (b *Builder) Reset() { b.buf = b.buf[:0] }
