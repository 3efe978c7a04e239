package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vitalgate/vitalgate/docs"
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/starts"
	"github.com/vitalgate/vitalgate/peer/store"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/cosign"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/record/logfile"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

var errEnough = errors.New("enough")

// each calls do for the verified records of boxes, from one index up to (not including) another, 0 for all.
func each(ctx context.Context, d facility.Dir, box string, from, to uint64, do func(*reader, record.Verified) error) error {
	src, err := openSource(d)
	if err != nil {
		return err
	}
	defer src.Close()
	state, err := d.Registry().Load()
	if err != nil {
		return err
	}
	if box != "" {
		if _, err := find(d, box); err != nil {
			return err
		}
	}
	var missing []error
	for _, r := range state.Boxes {
		if box != "" && r.Box != box {
			continue
		}
		next := from
		opener, err := d.Opener()
		if err != nil {
			return err
		}
		rd := newReader(src, r, opener)
		err = src.Records(ctx, r.ID(), from, false, func(p record.Published) error {
			if to != 0 && p.Index >= to {
				return errEnough
			}
			if p.Index > next {
				missing = append(missing, fmt.Errorf("records %d to %d of box %s are missing here; a running vitalpeer gets them from another peer that has them", next, p.Index-1, r.Box))
			}
			next = p.Index + 1
			v, err := rd.verifier.Verify(p)
			if err != nil {
				return fmt.Errorf("record %d of box %s in the store does not verify: %w; see vitalpeer fsck", p.Index, r.Box, err)
			}
			return do(rd, v)
		})
		if err != nil && err != errEnough {
			return err
		}
	}
	return errors.Join(missing...)
}

type getCmd struct {
	data
	Box    string `arg:"" help:"facility/name"`
	Index  uint64 `arg:"" help:"Index of the record."`
	Raw    bool   `xor:"form" help:"The monitor's message, exactly as it came."`
	Bundle bool   `xor:"form" help:"The Bundle, exactly as it was sealed."`
	Proof  bool   `xor:"form" help:"The proof in the form c2sp.org/tlog-proof@v1."`
}

func (c *getCmd) Run(ctx context.Context) error {
	found := false
	err := each(ctx, c.dir(), c.Box, c.Index, c.Index+1, func(rd *reader, v record.Verified) error {
		found = true
		if c.Proof {
			_, err := os.Stdout.Write(v.Published().Text())
			return err
		}
		if !c.Raw && !c.Bundle {
			l, _, err := rd.line(ctx, v.Published(), true)
			if err != nil {
				return err
			}
			e := json.NewEncoder(os.Stdout)
			e.SetEscapeHTML(false)
			return e.Encode(l)
		}
		if rd.opener == nil {
			return errors.New("cannot open the record: this peer has no reader key")
		}
		if why, err := rd.refuses(ctx, v.Header()); err != nil {
			return err
		} else if why != "" {
			return errors.New("cannot show the record: " + why)
		}
		content, err := rd.open(ctx, v)
		if err != nil {
			return err
		}
		b := content.Raw
		if c.Bundle {
			if b = content.Bundle; len(b) == 0 {
				return fmt.Errorf("record %d has no Bundle (%s); --raw gives the message", c.Index, content.Reason)
			}
		}
		_, err = os.Stdout.Write(b)
		return err
	})
	if err == nil && !found {
		return fmt.Errorf("cannot find record %d of box %s: it is not stored here (yet)", c.Index, c.Box)
	}
	return err
}

type exportCmd struct {
	data
	Box  string `arg:"" help:"facility/name"`
	From uint64 `help:"Index of the first record."`
	To   uint64 `help:"Index after the last record (default: all)."`
	Out  string `short:"o" required:"" placeholder:"DIR" help:"A new folder."`
}

func (c *exportCmd) Run(ctx context.Context) error {
	r, err := find(c.dir(), c.Box)
	if err != nil {
		return err
	}
	if err := os.Mkdir(c.Out, 0o755); err != nil {
		return fmt.Errorf("cannot export: %w; name a new folder with -o", err)
	}
	write := func(name string, b []byte) error {
		if err := os.WriteFile(filepath.Join(c.Out, name), b, 0o644); err != nil {
			return fmt.Errorf("cannot export: %w", err)
		}
		return nil
	}
	n, first := 0, ""
	keep := func(v record.Verified) error {
		name := fmt.Sprintf("%012d", v.Header().Index)
		return errors.Join(write(name+".leaf", v.Leaf()), write(name+".tlog-proof", v.Published().Text()))
	}
	epochs := map[uint64]bool{} // that began before the first record: without them nobody can open it
	err = each(ctx, c.dir(), c.Box, c.From, c.To, func(rd *reader, v record.Verified) error {
		n++
		h := v.Header()
		first = cmp.Or(first, fmt.Sprintf("%012d", h.Index))
		if !h.Kind.Control() && h.Epoch < c.From {
			epochs[h.Epoch] = true
		}
		return keep(v)
	})
	if err != nil {
		return err
	}
	for _, index := range sortedKeys(epochs) {
		if err := each(ctx, c.dir(), c.Box, index, index+1, func(_ *reader, v record.Verified) error { return keep(v) }); err != nil {
			return err
		}
	}
	if n == 0 {
		os.Remove(c.Out)
		return fmt.Errorf("cannot export: there is no record of box %s in that range; vitalpeer status shows how many there are", c.Box)
	}
	if err := c.cosigned(ctx, write); err != nil {
		return err
	}
	if err := errors.Join(write("verify.py", docs.VerifyPy), write("box.pem", []byte(r.DataKey)), write("README", fmt.Appendf(nil, exportReadme, r.Box, first))); err != nil {
		return err
	}
	if lak, _ := r.ChipAt(math.MaxUint64); lak != nil {
		if err := c.attestationKey(lak, write); err != nil {
			return err
		}
	}
	fmt.Printf("%d records of box %s are in %s; README there says how to verify them.\n", n, c.Box, c.Out)
	if len(epochs) > 0 {
		fmt.Printf("With them are %d earlier ones that hold the keys of some, sealed: the beginnings of their epochs.\n", len(epochs))
	}
	return nil
}

// attestationKey writes the key by which what the TPM of the box says of its starts is checked.
func (c *exportCmd) attestationKey(area []byte, write func(name string, b []byte) error) error {
	lak, err := attestation.ParseLAK(area)
	if err != nil {
		return fmt.Errorf("cannot export: %w", err)
	}
	pem, err := enrolment.FormatKey(lak.Public())
	if err != nil {
		return fmt.Errorf("cannot export: %w", err)
	}
	return write("lak.pem", []byte(pem))
}

// cosigned writes the checkpoint that peers have cosigned and their keys, as far as a running peer has them.
func (c *exportCmd) cosigned(ctx context.Context, write func(name string, b []byte) error) error {
	src, err := openSource(c.dir())
	if err != nil {
		return err
	}
	defer src.Close()
	s, ok := src.(socketSource)
	if !ok {
		return nil
	}
	a, err := s.get(ctx, "/cosigned?"+url.Values{"box": {c.Box}}.Encode())
	if errors.As(err, &unknownBox{}) {
		return nil // not cosigned yet
	}
	if err != nil {
		return err
	}
	defer a.Body.Close()
	var got cosignedAnswer
	if err := json.NewDecoder(io.LimitReader(a.Body, 16<<20)).Decode(&got); err != nil {
		return fmt.Errorf("cannot export: %w", err)
	}
	return errors.Join(write("checkpoint.cosigned", got.Note), write("cosigners", []byte(strings.Join(got.Keys, "\n")+"\n")))
}

// cosignedAnswer is what a running peer says of the cosignatures on a box's log.
type cosignedAnswer struct {
	Note []byte   `json:"note"`
	Keys []string `json:"keys"` // C2SP verifier keys
}

// serveCosigned answers /cosigned on the socket.
func (p *peer) serveCosigned(w http.ResponseWriter, q *http.Request) {
	id, err := record.ParseBoxID(q.FormValue("box"))
	note := p.witness.Note(id)
	if err != nil || note == nil {
		http.NotFound(w, q)
		return
	}
	answer := cosignedAnswer{Note: note}
	for _, c := range p.witness.Cards() {
		if keys, err := cosign.ParseKeys(c.Keys); err == nil {
			if _, _, err := keys.Verify(note); err == nil {
				answer.Keys = append(answer.Keys, c.Keys...)
			}
		}
	}
	json.NewEncoder(w).Encode(answer)
}

const exportReadme = `Records of box %[1]s, each with the proof that the box has signed it.

  NNN.leaf        the record: a clear header, a blank line, the body (sealed to the facility's readers)
  NNN.tlog-proof  its inclusion proof with the signed checkpoint of the box's log (c2sp.org/tlog-proof@v1)
  box.pem         the public key of the box. Compare it with one from a source you trust: the proof is worth no more
  lak.pem         where the TPM of the box was proven when it was enrolled: its attestation key, by which what the TPM says of
                  each start is checked (the records of kind boot; give the file to verify.py as a fifth argument)
  checkpoint.cosigned, cosigners
                  where the peer was running: the last checkpoint as other peers have cosigned it (c2sp.org/tlog-cosignature,
                  Ed25519 and ML-DSA-44), and their public keys

Whole records, with Python and openssl (verify.py, which comes with this; read it first):

  for f in *.leaf; do python3 verify.py box.pem "$f" "${f%%.leaf}.tlog-proof" %[1]s || echo "BAD $f"; done

The signature alone, with openssl: the signed text is what stands between the first blank line of the proof and the next
one; the last line is the origin and, in base64, 4 bytes that name the key and the ECDSA signature in DER.

  f=%[2]s.tlog-proof
  awk 'n==1 && $0=="" {exit} n==1 {print} $0=="" {n++}' $f >text
  tail -n 1 $f | cut -d' ' -f3 | base64 -d | tail -c +5 >signature
  openssl dgst -sha256 -verify box.pem -signature signature text

What is in a record: whoever holds the facility's reader key asks a peer for it, vitalpeer get %[1]s INDEX --bundle (or --raw for
what the monitor sent).
`

type verifyCmd struct {
	data
	Box string `placeholder:"F1/GW1" help:"Only this box."`
}

func (c *verifyCmd) Run(ctx context.Context) error {
	records, checkpoints := map[string]int{}, map[string]int{}
	begun := map[string][]starts.Start{}
	last := ""
	err := each(ctx, c.dir(), c.Box, 0, 0, func(rd *reader, v record.Verified) error {
		records[rd.reg.Box]++
		if sc := string(v.Published().Checkpoint); sc != last {
			last = sc
			checkpoints[rd.reg.Box]++
		}
		if v.Header().Kind == record.KindBoot {
			all := begun[rd.reg.Box]
			begun[rd.reg.Box] = append(all, starts.Judge(v, rd.reg, all, func(index uint64) (record.Verified, bool) { return rd.stored(ctx, index) }))
		}
		return nil
	})
	forged := 0
	for _, box := range sortedKeys(records) {
		fmt.Printf("%s: %d records under %d checkpoints verified\n", box, records[box], checkpoints[box])
		n := map[starts.Verdict]int{}
		for _, s := range begun[box] {
			n[s.Verdict]++
			if s.Verdict.Forged() {
				forged++
				fmt.Printf("  the start at record %d is FORGED (%s): %s\n", s.Index, s.Verdict, s.Why)
			}
		}
		fmt.Printf("  %d starts: %d attested by the TPM, %d claimed\n", len(begun[box]), n[starts.Attested], n[starts.Claimed])
	}
	if forged > 0 {
		err = errors.Join(err, fmt.Errorf("%d starts are not what the TPM of the box has said of them", forged))
	}
	return err
}

type fsckCmd struct{ data }

func (c *fsckCmd) Run() error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	state, err := c.dir().Registry().Load()
	if err != nil {
		return err
	}
	bad := 0
	for _, r := range state.Boxes {
		dir := store.LogDir(c.dir().Store(), r.ID())
		if _, err := os.Stat(dir); errors.Is(err, os.ErrNotExist) {
			fmt.Printf("%s: nothing stored yet\n", r.Box)
			continue
		}
		report, err := logfile.Check(dir, logfile.CheckOptions{Box: r.ID(), KeyAt: r.KeyAt})
		if err != nil {
			return err
		}
		state := "clean"
		if !report.Clean() || report.First > 0 {
			state, bad = "NOT clean", bad+1
		}
		fmt.Printf("%s: %s: %d records, %d signed, %d checkpoints, %d files, %d bytes\n", r.Box, state, report.Next-report.First, report.Signed, report.Checkpoints, report.Segments, report.Bytes)
		for _, p := range report.Problems {
			fmt.Println("  " + p.String())
		}
		if report.First > 0 {
			fmt.Printf("  records 0 to %d are gone with the files that held them: stop the peer, move the folder %s elsewhere and start it again\n", report.First-1, dir)
		}
		if report.Torn > 0 && !report.Live {
			fmt.Printf("  its last %d bytes are a part of an entry, as after a power cut: the next start cuts them off\n", report.Torn)
		}
	}
	if bad > 0 {
		return fmt.Errorf("the logs of %d boxes are damaged: run the peer, and it asks the others for what is missing (vitalpeer status names it until it is here); docs/peer/README.md says more", bad)
	}
	return nil
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }

func orDash(s string) string { return cmp.Or(s, "-") }
