package fhir

import (
	"encoding/json"
	"testing"
	"unicode/utf8"
)

// A decimal keeps the monitor's digits; what JSON does not allow is brought into the nearest form that it does.
func TestDecimal(t *testing.T) {
	for _, c := range []struct {
		in, want string
		bent, ok bool
	}{
		{"72.50", "72.50", false, true},
		{"0", "0", false, true},
		{"-0.0", "-0.0", false, true},
		{"-12", "-12", false, true},
		{" 36.8 ", "36.8", false, true},
		{".5", "0.5", true, true},
		{"-.50", "-0.50", true, true},
		{"+5", "5", true, true},
		{"05", "5", true, true},
		{"00.5", "0.5", true, true},
		{"5.", "5", true, true},
		{"000", "0", true, true},
		{"2.73E-7", "2.73E-7", false, true},
		{"5.E3", "5E3", true, true},
		{"12345678901234567890.123456789", "12345678901234567890.123456789", false, true},
		{"", "", false, false},
		{".", "", false, false},
		{"-", "", false, false},
		{"36,8", "", false, false},
		{"1 2", "", false, false},
		{"1.2.3", "", false, false},
		{"1e", "", false, false},
		{"1e999", "", false, false},
		{"NaN", "", false, false},
		{"0x10", "", false, false},
		{"---", "", false, false},
		{"99999999999999999999999999999999999999999", "", false, false},
	} {
		got, bent, ok := Decimal(c.in)
		if got != c.want || bent != c.bent || ok != c.ok {
			t.Errorf("Decimal(%q) = %q, %v, %v; want %q, %v, %v", c.in, got, bent, ok, c.want, c.bent, c.ok)
		}
		if ok && !json.Valid([]byte(got)) {
			t.Errorf("Decimal(%q) = %q is no JSON number", c.in, got)
		}
	}
}

// Whatever text a monitor sends, the string is JSON, is UTF-8 and holds no character that FHIR forbids.
func FuzzAppendString(f *testing.F) {
	for _, s := range []string{"", "plain", "quote\" back\\slash", "tab\tcr\rlf\n", "\x00\x01\x1f\x7f", "\xff\xfe", "\u2028\u2029", "SpO₂ °C 王"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		b := AppendString(nil, s)
		var back string
		if err := json.Unmarshal(b, &back); err != nil {
			t.Fatalf("%q: %v", s, err)
		}
		if !utf8.Valid(b) {
			t.Fatalf("%q: not UTF-8", s)
		}
		for _, r := range back {
			if r < ' ' && r != '\t' && r != '\r' && r != '\n' {
				t.Fatalf("%q: control character %U", s, r)
			}
		}
		clean := utf8.ValidString(s)
		for _, r := range s {
			clean = clean && (r >= ' ' || r == '\t' || r == '\r' || r == '\n')
		}
		if clean && back != s {
			t.Fatalf("%q became %q", s, back)
		}
	})
}

// An element without a value is left out, never written empty.
func TestNothingEmpty(t *testing.T) {
	o := Observation{Status: "final", Code: CodeableConcept{Text: "x"}}
	if got, want := string(o.Append(nil)), `{"resourceType":"Observation","status":"final","code":{"text":"x"}}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	p := Patient{ID: "a"}
	if got, want := string(p.Append(nil)), `{"resourceType":"Patient","id":"a"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	b := EndBundle(BeginBundle(nil, "b", Identifier{}, ""), false)
	if got, want := string(b), `{"resourceType":"Bundle","id":"b","type":"collection"}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func BenchmarkObservation(b *testing.B) {
	o := Observation{
		ID: "8b46ece9-9163-8e80-98ff-6282748a56eb", Profile: "http://hl7.org/fhir/StructureDefinition/heartrate", Status: "final",
		Category:  Coding{System: SystemCategory, Code: "vital-signs", Display: "Vital Signs"},
		Code:      CodeableConcept{Coding: []Coding{{System: SystemLOINC, Code: "8867-4", Display: "Heart rate"}, {System: SystemMDC, Code: "147842", Display: "MDC_ECG_HEART_RATE"}}},
		Subject:   Reference{Reference: "urn:uuid:c825e8dc-dcfc-8203-ad78-39763406f647"},
		Effective: "2025-11-05T11:59:58Z",
		Value:     Value{Quantity: Quantity{Value: "72", Unit: "/min", System: SystemUCUM, Code: "/min"}},
		Device:    Reference{Reference: "urn:uuid:c0869d8f-129b-886b-bd1e-79e1d8865465"},
	}
	var buf []byte
	b.ReportAllocs()
	for b.Loop() {
		buf = o.Append(buf[:0])
	}
	b.SetBytes(int64(len(buf)))
}
