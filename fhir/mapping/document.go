package mapping

import (
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/vitalgate/vitalgate/fhir"
	"github.com/vitalgate/vitalgate/hl7"
)

// readDocument reads an ED (HL7 v2.9 §2A.3.24): the bytes of a document become an Attachment (docs/adr/0014). What is not in the encoding
// that ED.4 names is kept as text.
func (c *Converter) readDocument(r *row, v hl7.Value) {
	if v.Reps() > 1 || v.Comp(5).Empty() || v.Comps() > 5 {
		c.readText(r, v)
		return
	}
	kind := c.mediaType(v.Comp(2), v.Comp(3))
	var data string
	switch encoding := string(v.Comp(4).Raw()); { // HL7 table 0299
	case strings.EqualFold(encoding, "Base64"):
		data = withoutSpace(c.text(v.Comp(5)))
		if _, err := base64.StdEncoding.Strict().DecodeString(data); err != nil {
			data = ""
		}
	case strings.EqualFold(encoding, "Hex"):
		if b, err := hex.DecodeString(withoutSpace(c.text(v.Comp(5)))); err == nil {
			data = base64.StdEncoding.EncodeToString(b)
		}
	case encoding == "A", encoding == "":
		data = base64.StdEncoding.EncodeToString(v.Comp(5).AppendText(nil))
		if kind == unknownMedia {
			kind = "text/plain; charset=utf-8"
		}
	}
	if data == "" {
		c.finding(r, EventDocument, 5, "the document is not in the encoding that it names: kept as text")
		c.readText(r, v)
		return
	}
	r.attached = &fhir.Attachment{ContentType: kind, Data: data}
}

// withoutSpace takes out the line ends and blanks that senders put into long data.
func withoutSpace(s string) string {
	return strings.Map(func(x rune) rune {
		if x == ' ' || x == '\r' || x == '\n' || x == '\t' {
			return -1
		}
		return x
	}, s)
}

// readPointer reads an RP (HL7 v2.9 §2A.3.63): where a document lies. It is never fetched.
func (c *Converter) readPointer(r *row, v hl7.Value) {
	url := c.part(v.Comp(1))
	if v.Reps() > 1 || v.Comps() > 4 || strings.Contains(url, " ") || !isCode(url) {
		c.readText(r, v)
		return
	}
	r.attached = &fhir.Attachment{URL: url}
	if kind := c.mediaType(v.Comp(3), v.Comp(4)); kind != unknownMedia {
		r.attached.ContentType = kind
	}
}

// unknownMedia is the type of bytes of which no more is known: data must have one (FHIR R4 att-1).
const unknownMedia = "application/octet-stream"

// mediaType makes a MIME type (RFC 6838) of a type and a subtype of HL7 tables 0191, 0834 and 0291.
func (c *Converter) mediaType(typ, sub hl7.Value) string {
	kind, subtype := strings.ToLower(c.part(typ)), strings.ToLower(c.part(sub))
	switch kind {
	case "ap":
		kind = "application"
	case "au":
		kind = "audio"
	case "im":
		kind = "image"
	case "tx", "ft":
		kind = "text"
	}
	if whole, rest, ok := strings.Cut(subtype, "/"); ok { // a whole type in the place of the subtype
		kind, subtype = whole, rest
	}
	if !oneOf(kind, "application", "audio", "image", "text", "video", "model", "multipart", "font") || !isToken(subtype) {
		return unknownMedia
	}
	return kind + "/" + subtype
}

// isToken says whether s may stand in a MIME type.
func isToken(s string) bool {
	for i := range len(s) {
		b := s[i]
		if !(b >= 'a' && b <= 'z' || b >= '0' && b <= '9' || strings.IndexByte("!#$&-^_.+", b) >= 0) {
			return false
		}
	}
	return s != "" && len(s) <= 127
}
