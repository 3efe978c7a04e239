package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/google/fhir/go/fhirversion"
	"github.com/google/fhir/go/jsonformat"

	"github.com/vitalgate/vitalgate/fhir/check"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
)

// schema judges Bundles: google/fhir knows the structure of every resource, package check the rules that it misses.
type schema struct{ strict *jsonformat.Unmarshaller }

func newSchema() (*schema, error) {
	u, err := jsonformat.NewUnmarshaller("UTC", fhirversion.R4)
	if err != nil {
		return nil, fmt.Errorf("cannot load the FHIR R4 schema: %w", err)
	}
	return &schema{u}, nil
}

// faults says what is wrong with a Bundle. It quotes no value.
func (s *schema) faults(bundle []byte) []string {
	var all []string
	if _, err := s.strict.Unmarshal(bundle); err != nil {
		text := "is not valid FHIR R4 JSON"
		if strings.Contains(fmt.Sprintf("%T", err), "UnmarshalError") { // the type is internal to the library
			text = err.Error() // places and rules; the library keeps values in its diagnostics, which are not in it
		}
		all = append(all, strings.Split(text, "\n")...)
	}
	return append(all, check.Bundle(bundle)...)
}

// sampleEvery is how many Bundles of one kind pass between two that are checked.
const sampleEvery = 500

// sampler checks the first Bundle of each kind of one box and some after it.
type sampler struct {
	log    *slog.Logger
	schema *schema
	seen   map[record.Kind]int
}

func newSampler(log *slog.Logger) *sampler {
	return &sampler{log: log, seen: map[record.Kind]int{}}
}

func (s *sampler) look(b *store.Box, v record.Verified, c record.Content) {
	h := v.Header()
	if len(c.Bundle) == 0 {
		return
	}
	n := s.seen[h.Kind]
	s.seen[h.Kind]++
	if n%sampleEvery != 0 {
		return
	}
	if s.schema == nil {
		var err error
		if s.schema, err = newSchema(); err != nil {
			s.log.Error("cannot check Bundles", "error", err)
			return
		}
	}
	faults := s.schema.faults(c.Bundle)
	if len(faults) == 0 {
		return
	}
	s.log.Warn("a Bundle is not valid FHIR R4", "box", h.Box.String(), "index", h.Index, "kind", string(h.Kind), "faults", len(faults))
	b.Refuse(v, store.ReasonSchema, strings.Join(faults[:min(len(faults), 10)], "; "))
}

type validateCmd struct {
	data
	Box  string `placeholder:"F1/GW1" help:"Only this box."`
	From uint64 `help:"Index of the first record."`
	To   uint64 `help:"Index after the last record (default: all)."`
}

func (c *validateCmd) Run(ctx context.Context) error {
	s, err := newSchema()
	if err != nil {
		return err
	}
	bad, total := 0, 0
	err = each(ctx, c.dir(), c.Box, c.From, c.To, func(rd *reader, v record.Verified) error {
		if rd.opener == nil {
			return errors.New("cannot check Bundles: this peer has no reader key, so it cannot open records")
		}
		if v.Header().Kind.Control() {
			rd.opener.Open(v)
			return nil
		}
		content, err := rd.open(ctx, v)
		if err != nil {
			bad++
			fmt.Fprintf(os.Stdout, "%s %d: %v\n", rd.reg.Box, v.Header().Index, err)
			return nil
		}
		if len(content.Bundle) == 0 {
			return nil
		}
		total++
		if faults := s.faults(content.Bundle); len(faults) > 0 {
			bad++
			for _, f := range faults {
				fmt.Fprintf(os.Stdout, "%s %d: %s\n", rd.reg.Box, v.Header().Index, f)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	fmt.Printf("%d Bundles checked, %d not valid.\n", total, bad)
	if bad > 0 {
		return fmt.Errorf("%d records are not valid FHIR R4", bad)
	}
	return nil
}
