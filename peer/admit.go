package main

import (
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/peer/admission"
	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// boxAskCmd makes the question that lets a box prove by its TPM what holds its keys.
type boxAskCmd struct {
	data
	vouching
	Request string `arg:"" type:"existingfile" help:"The box's request, such as gw1.request.json."`
	Out     string `short:"o" placeholder:"FILE" help:"Where to write the question (default NAME.question.json)."`
}

// vouching are certificates from elsewhere.
type vouching struct {
	Certificate []string `placeholder:"FILE" type:"existingfile" help:"Certificate of the TPM's endorsement key (DER or PEM), where the chip does not keep it and its maker gives it out by a service of its own (AMD, Intel)."`
}

func (v vouching) read() (all [][]byte, err error) {
	for _, path := range v.Certificate {
		b, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("cannot read the certificate: %w", err)
		}
		if block, _ := pem.Decode(b); block != nil {
			b = block.Bytes
		}
		if _, err := attestation.ParseEndorsementCertificate(b); err != nil {
			return nil, fmt.Errorf("cannot use %s: %w", path, err)
		}
		all = append(all, b)
	}
	return all, nil
}

func desk(d facility.Dir) (admission.Desk, error) {
	trust, err := admission.LoadTrust(d.Trust())
	return admission.Desk{Dir: d.Questions(), Trust: trust}, err
}

func (c *boxAskCmd) Run() error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	r, err := enrolment.ReadRequest(c.Request)
	if err != nil {
		return err
	}
	if err := admits(c.dir(), r); err != nil {
		return err
	}
	certificates, err := c.read()
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, name, _ := strings.Cut(r.Box, "/")
		c.Out = name + ".question.json"
	}
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("cannot write %s: it exists; remove it or name another with -o", c.Out)
	}
	at, err := desk(c.dir())
	if err != nil {
		return err
	}
	q, err := at.Ask(r, certificates...)
	if err != nil {
		return err
	}
	if err := enrolment.Write(c.Out, q); err != nil {
		return err
	}
	fmt.Printf("The question to box %s is in %s, good until %s. On the box: vitalgate answer %s -o ANSWER; then here: vitalpeer box add %s --answer ANSWER --data %s\n",
		r.Box, c.Out, q.Expires.Format(time.DateOnly), c.Out, c.Request, c.Data)
	return nil
}

// proven is what a command that lets keys in takes as proof of them.
type proven struct {
	vouching
	Answer string `type:"existingfile" placeholder:"FILE" help:"The box's answer to vitalpeer box ask: its TPM proves what holds the keys. Without it they are let in on trust."`
}

// admits refuses a chip that the registry denies or knows as another box's. Every chip that is shown is looked at, proven or not: who is
// let in on trust must not bring what would be refused with proof.
func admits(d facility.Dir, r *enrolment.Request) error {
	s, err := d.Registry().Load()
	if err != nil {
		return err
	}
	chips, err := admission.Chips(r)
	if err != nil {
		return err
	}
	return s.Admits(r.Box, r.Software, chips...)
}

// attested is the facility's own finding; nothing where there is no answer.
func (p proven) attested(d facility.Dir, r *enrolment.Request) (*registry.Attested, string, error) {
	if err := admits(d, r); err != nil {
		return nil, "", err
	}
	if p.Answer == "" {
		return nil, "", nil
	}
	var a attestation.Answer
	if err := enrolment.Read(p.Answer, "answer (vitalgate answer)", &a); err != nil {
		return nil, "", err
	}
	certificates, err := p.read()
	if err != nil {
		return nil, "", err
	}
	at, err := desk(d)
	if err != nil {
		return nil, "", err
	}
	v, err := at.Admit(r, &a, certificates...)
	if err != nil {
		return nil, "", err
	}
	state, err := d.Registry().Load()
	if err != nil {
		return nil, "", err
	}
	for name, why := range state.Firmware {
		if value, ok := registry.MeasuredFirmware(name); ok && v.PCRs.Measured(value) {
			return nil, "", fmt.Errorf("cannot admit box %s: it runs firmware that is denied as %s: %s; update it, and have it asked again (vitalpeer box ask)", r.Box, name, why)
		}
	}
	fmt.Printf("The keys of box %s cannot leave its TPM: %s, vouched for by %s (%s %s, firmware %#x). PCR 7 is %x, PCR 11 is %x.\n",
		r.Box, v.Chip.Class, v.Chip.Maker, v.Chip.Manufacturer, v.Chip.Model, v.Firmware, v.PCRs[attestation.SecureBootPCR], v.PCRs[attestation.FirmwarePCR])
	return &registry.Attested{Class: string(v.Chip.Class), Maker: v.Chip.Maker, Manufacturer: v.Chip.Manufacturer, Model: v.Chip.Model, Version: v.Chip.Version,
		LAK: v.LAK, Policy: hex.EncodeToString(v.Policy), Firmware: v.Firmware}, v.Fingerprint, nil
}

// spent closes the question that the answer was to, once the decision stands.
func (p proven) spent(d facility.Dir, box string) error {
	if p.Answer == "" {
		return nil
	}
	return admission.Desk{Dir: d.Questions()}.Forget(box)
}
