package mapping_test

import (
	"slices"
	"testing"

	"github.com/vitalgate/vitalgate/fhir/mapping"
)

func TestNumbers(t *testing.T) {
	d, err := mapping.LookupDialect("mindray-pds")
	if err != nil {
		t.Fatal(err)
	}
	n := d.Numbers()
	if len(n) < 20 || n[0] != "51" || !slices.Contains(n, "160") || !slices.Contains(n, "502") || slices.Index(n, "160") > slices.Index(n, "502") {
		t.Errorf("the numbers are %q", n)
	}
	if d, err = mapping.LookupDialect("ihe-pcd01"); err != nil || len(d.Numbers()) != 0 {
		t.Errorf("%v, a dialect without a table has the numbers %q", err, d.Numbers())
	}
}
