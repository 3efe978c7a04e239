package check

import (
	"strings"
	"testing"
)

const vital = `{"resourceType":"Bundle","type":"collection","entry":[
{"fullUrl":"urn:uuid:8945ea33-a9f5-8df1-9b54-b5eaf679b3cd","resource":{"resourceType":"Patient","id":"8945ea33-a9f5-8df1-9b54-b5eaf679b3cd","gender":"female","birthDate":"1970"}},
{"fullUrl":"urn:uuid:8b46ece9-9163-8e80-98ff-6282748a56eb","resource":{"resourceType":"Observation","id":"8b46ece9-9163-8e80-98ff-6282748a56eb","meta":{"profile":["http://hl7.org/fhir/StructureDefinition/heartrate"]},"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"},{"system":"urn:iso:std:iso:11073:10101","code":"147842"}]},"subject":{"reference":"urn:uuid:8945ea33-a9f5-8df1-9b54-b5eaf679b3cd"},"effectiveDateTime":"2025-11-05T11:59:58Z","valueQuantity":{"value":72.50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"},"referenceRange":[{"low":{"value":50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}]}},
{"fullUrl":"urn:uuid:75b9a25b-78dd-878e-a477-a0ea13e439a9","resource":{"resourceType":"Observation","id":"75b9a25b-78dd-878e-a477-a0ea13e439a9","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"subject":{"reference":"urn:uuid:8945ea33-a9f5-8df1-9b54-b5eaf679b3cd"},"effectiveDateTime":"2025-11-05","component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":120,"unit":"mmHg","system":"http://unitsofmeasure.org","code":"mm[Hg]"}},{"code":{"coding":[{"system":"http://loinc.org","code":"8462-4"}]},"dataAbsentReason":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/data-absent-reason","code":"unknown"}]}}]}}]}`

func TestGoodBundle(t *testing.T) {
	if got := Bundle([]byte(vital)); got != nil {
		t.Errorf("a good Bundle is blamed: %q", got)
	}
}

// Each rule must catch the Bundle that breaks it and only it.
func TestEachRuleCatches(t *testing.T) {
	for name, c := range map[string]struct{ old, new, want string }{
		"duplicate key":           {`"gender":"female",`, `"gender":"female","gender":"female",`, "stands twice"},
		"enum case":               {`"status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}`, `"status":"Final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}`, "is not one of"},
		"gender case":             {`"female"`, `"Female"`, "is not one of"},
		"empty string":            {`"birthDate":"1970"`, `"birthDate":""`, "empty string"},
		"empty array":             {`"gender":"female",`, `"gender":"female","name":[],`, "empty array"},
		"empty object":            {`"gender":"female",`, `"gender":"female","maritalStatus":{},`, "empty object"},
		"null":                    {`"gender":"female",`, `"gender":"female","active":null,`, "is null"},
		"trailing bytes":          {`}]}}]}}]}`, `}]}}]}}]} {}`, "after its end"},
		"obs-6":                   {`"effectiveDateTime":"2025-11-05T`, `"dataAbsentReason":{"text":"x"},"effectiveDateTime":"2025-11-05T`, "obs-6"},
		"obs-7":                   {`"referenceRange":[{"low"`, `"component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"valueString":"x"}],"referenceRange":[{"low"`, "obs-7"},
		"obs-3":                   {`"referenceRange":[{"low":{"value":50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}]`, `"referenceRange":[{"appliesTo":[{"text":"x"}]}]`, "obs-3"},
		"qty-3":                   {`"value":72.50,"unit":"/min","system":"http://unitsofmeasure.org",`, `"value":72.50,"unit":"/min",`, "qty-3"},
		"number as string":        {`72.50`, `"72.50"`, "no number"},
		"reference":               {`"subject":{"reference":"urn:uuid:8945ea33-a9f5-8df1-9b54-b5eaf679b3cd"},"effectiveDateTime":"2025-11-05T`, `"subject":{"reference":"urn:uuid:8945ea33-a9f5-8df1-9b54-b5eaf679b3ce"},"effectiveDateTime":"2025-11-05T`, "not in the Bundle"},
		"bdl-7":                   {`urn:uuid:75b9a25b-78dd-878e-a477-a0ea13e439a9`, `urn:uuid:8b46ece9-9163-8e80-98ff-6282748a56eb`, "bdl-7"},
		"fullUrl is the id":       {`"id":"75b9a25b`, `"id":"65b9a25b`, "not its resource's id"},
		"vs-1":                    {`"effectiveDateTime":"2025-11-05",`, `"effectiveDateTime":"2025-11",`, "vs-1"},
		"no time":                 {`"effectiveDateTime":"2025-11-05",`, ``, "vs-1"},
		"vs-2":                    {`"valueQuantity":{"value":72.50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"},`, ``, "vs-2"},
		"vs-3":                    {`,"dataAbsentReason":{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/data-absent-reason","code":"unknown"}]}`, ``, "vs-3"},
		"no subject":              {`"subject":{"reference":"urn:uuid:8945ea33-a9f5-8df1-9b54-b5eaf679b3cd"},"effectiveDateTime":"2025-11-05",`, `"effectiveDateTime":"2025-11-05",`, "without a subject"},
		"unit of the profile":     {`72.50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"`, `72.50,"unit":"/min","system":"http://unitsofmeasure.org","code":"{beat}/min"`, "is not one of"},
		"no unit text":            {`72.50,"unit":"/min",`, `72.50,`, "needs value, unit"},
		"code of the profile":     {`"code":"8867-4"`, `"code":"9279-1"`, "has not its code"},
		"pressure without a part": {`"code":"8462-4"`, `"code":"8478-0"`, "0 components 8462-4"},
		"absent reason":           {`"code":"unknown"`, `"code":"Unknown"`, "is not one of"},
		"LOINC check digit":       {`"code":"8480-6"`, `"code":"8480-7"`, "check digit"},
		"MDC code":                {`"147842"`, `"MDC_ECG"`, "MDC code"},
		"UCUM":                    {`{"low":{"value":50,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}`, `{"low":{"value":50,"unit":"x","system":"http://unitsofmeasure.org","code":"bpm"}}`, "UCUM"},
		"att-1":                   {`"gender":"female",`, `"gender":"female","extension":[{"url":"x","valueAttachment":{"data":"AAAA"}}],`, "att-1"},
		"base64":                  {`"gender":"female",`, `"gender":"female","extension":[{"url":"x","valueAttachment":{"contentType":"a/b","data":"A-AA"}}],`, "base64"},
		"not JSON":                {`{"resourceType":"Bundle",`, `{resourceType:"Bundle",`, "JSON"},
	} {
		t.Run(name, func(t *testing.T) {
			if !strings.Contains(vital, c.old) {
				t.Fatal("the example does not hold what the case replaces")
			}
			got := strings.Join(Bundle([]byte(strings.Replace(vital, c.old, c.new, 1))), "; ")
			if !strings.Contains(got, c.want) {
				t.Errorf("found %q, want %q", got, c.want)
			}
		})
	}
}

func TestUCUM(t *testing.T) {
	for _, s := range []string{"1", "%", "/min", "mm[Hg]", "cm[H2O]", "Cel", "[degF]", "kPa", "{beat}/min", "L/min/m2", "cm[H2O].s/L", "dyn.s.m2/cm5", "ug/kg/min", "mL/(min.m2)", "10.mV/4096", "m2", "s-1", "kg/m2", "mmol/L", "dB", "[lb_av]"} {
		if err := UCUM(s); err != nil {
			t.Errorf("%s: %v", s, err)
		}
	}
	for _, s := range []string{"", "bpm", "mmHg", "degC", "/", "mL//min", "(mL", "mL)", "{x", "[degF", "k%", "°C", "MDC_DIM_MMHG", "rpm"} {
		if UCUM(s) == nil {
			t.Errorf("%q is taken for a UCUM unit", s)
		}
	}
}

func TestOutcome(t *testing.T) {
	if got := Outcome([]byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"error","code":"structure"}]}`)); got != nil {
		t.Error(got)
	}
	if Outcome([]byte(`{"resourceType":"OperationOutcome","issue":[{"severity":"Error","code":"structure"}]}`)) == nil {
		t.Error("a severity in wrong case is taken")
	}
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte(vital))
	f.Add([]byte(`{"resourceType":"Bundle","entry":[1,null,{"fullUrl":2}]}`))
	f.Add([]byte(`[[[[`))
	f.Fuzz(func(t *testing.T, data []byte) { Bundle(data) })
}
