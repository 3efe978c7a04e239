package tpm

import (
	"context"
	"crypto/ecdsa"
	"errors"
	"log/slog"
	"syscall"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"
	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Kill sends a signal to the emulated TPM.
func (t *TPM) Kill(sig syscall.Signal) { t.swtpm().cmd.Process.Signal(sig) }

// Pid is the process of the emulated TPM.
func (t *TPM) Pid() int { return t.swtpm().cmd.Process.Pid }

// FillDisk takes the disk of the emulated TPM away from it, and has it write. SIGXFSZ must have been ignored before it was started.
func (t *TPM) FillDisk() error {
	if err := unix.Prlimit(t.Pid(), unix.RLIMIT_FSIZE, &unix.Rlimit{}, nil); err != nil {
		return err
	}
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	_, err := tpm2.Shutdown{ShutdownType: tpm2.TPMSUState}.Execute(c.bus)
	return err
}

func (t *TPM) swtpm() *swtpm {
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bus.link.(*swtpm)
}

// PowerCut ends everything at once, as a cut of the power does: no TPM2_Shutdown, no flush.
func (t *TPM) PowerCut() {
	s := t.swtpm()
	s.cmd.Process.Kill()
	<-s.exited
	s.conn.Close()
	t.lock.Close()
}

// SetPatience shortens the time a TPM may take for a command.
func (t *TPM) SetPatience(d time.Duration) {
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.patience = patience{d, d}
	if c.bus != nil {
		c.bus.patience = c.patience
	}
}

// Rested lets the next use try to connect at once.
func (t *TPM) Rested() {
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resting = time.Time{}
}

// LoseSession takes the session away inside the TPM, as a reset of the chip does.
func (t *TPM) LoseSession() error {
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.flush()
}

// Clear is TPM2_Clear: the owner is gone.
func (t *TPM) Clear() error {
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bus.ctx = context.Background()
	_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(c.bus)
	return err
}

// Fault stands between the chip and the real swtpm. It sees each command and returns the answer to give instead and
// whether to pass the command on first.
type Fault func(command []byte) (answer []byte, pass bool, err error)

// ErrFault is the error of an injected fault.
var ErrFault = errors.New("the line was cut")

type faulty struct {
	link
	fault Fault
}

func (f *faulty) exchange(ctx context.Context, command []byte) ([]byte, error) {
	answer, pass, err := f.fault(command)
	if pass {
		real, realErr := f.link.exchange(ctx, command)
		if answer == nil && err == nil {
			return real, realErr
		}
	}
	return answer, err
}

// OpenFaulty opens a swtpm behind a fault.
func OpenFaulty(ctx context.Context, dir string, fault Fault) (*TPM, error) {
	lock, err := lockDir(dir)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(dir)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	c := &chip{source: "swtpm", patience: swtpmPatience, id: id, log: log, dial: func(ctx context.Context) (link, error) {
		l, err := startSwtpm(ctx, dir, log)
		if err != nil {
			return nil, err
		}
		return &faulty{l, fault}, nil
	}}
	if err := c.open(ctx, false); err != nil {
		lock.Close()
		return nil, err
	}
	return &TPM{class: Emulated, label: labelEmulated, keeper: c, lock: lock}, nil
}

// Swtpm starts a swtpm and returns its plain line.
func Swtpm(ctx context.Context, dir string) (exchange func([]byte) ([]byte, error), end func() error, err error) {
	l, err := startSwtpm(ctx, dir, slog.New(slog.DiscardHandler))
	if err != nil {
		return nil, nil, err
	}
	return func(command []byte) ([]byte, error) { return l.exchange(ctx, command) }, l.close, nil
}

// EvictEndorsementKeys removes the endorsement keys the maker left in place, as if this were another maker's chip.
func (t *TPM) EvictEndorsementKeys() error {
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.bus.ctx = context.Background()
	for _, h := range []tpm2.TPMHandle{0x81010001, 0x81010016} {
		k, err := readKey(c.bus, h)
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{
			Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHPlatform, Auth: tpm2.PasswordAuth(nil)},
			ObjectHandle:     &tpm2.NamedHandle{Handle: h, Name: k.name},
			PersistentHandle: h,
		}.Execute(c.bus)
		if err != nil {
			_, err = tpm2.EvictControl{
				Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
				ObjectHandle:     &tpm2.NamedHandle{Handle: h, Name: k.name},
				PersistentHandle: h,
			}.Execute(c.bus)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Vault is the vault of the same TPM, as the first process of the box had it.
func (t *TPM) Vault() *Vault {
	c := t.keeper.(*chip)
	c.mu.Lock()
	defer c.mu.Unlock()
	return &Vault{bus: c.bus}
}

// Measure extends a PCR, as firmware that starts does.
func (v *Vault) Measure(ctx context.Context, number uint, digest []byte) error {
	return v.do(ctx, "measure", func(t transport.TPM) error { return extendPCR(t, number, digest) })
}

// OpenMeasured opens a swtpm whose PCRs were extended by what started the box.
func OpenMeasured(ctx context.Context, o Options, measured map[uint][]byte) (*TPM, error) {
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	id, err := readIdentity(o.Dir)
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.DiscardHandler)
	c := &chip{source: "swtpm", patience: swtpmPatience, id: id, log: log}
	if o.Firmware != nil {
		c.gate = &gate{firmware: o.Firmware}
	}
	first := true
	c.dial = func(ctx context.Context) (link, error) {
		l, err := startSwtpm(ctx, o.Dir, log)
		if err != nil || !first {
			return l, err
		}
		first = false // a TPM that is started again under the running box has not seen it start
		for number, digest := range measured {
			if err := extendPCR(&bus{ctx: ctx, link: l, patience: swtpmPatience}, number, digest); err != nil {
				return nil, err
			}
		}
		return l, nil
	}
	if err := c.open(ctx, false); err != nil {
		lock.Close()
		return nil, err
	}
	return &TPM{class: Emulated, label: labelEmulated, keeper: c, lock: lock}, nil
}

// Deliver makes the TPM one that the maker of a box has prepared: with an initial attestation key and its certificate.
func (t *TPM) Deliver(ctx context.Context, certify func(*ecdsa.PublicKey) []byte) error {
	return t.keeper.(*chip).do(ctx, "deliver the TPM", func(b transport.TPM, _ tpm2.Session) error {
		template := attestation.SigningKey(true, []byte("\x54\x37\x18\x23\x26\xe4\x14\xfc\xa7\x97\xd5\xf1\x74\x61\x5a\x16\x41\xf6\x12\x55\x79\x7c\x3a\x2b\x22\xc2\x1d\x12\x0b\x2d\x1e\x07"))
		template.ObjectAttributes.UserWithAuth, template.ObjectAttributes.AdminWithPolicy, template.ObjectAttributes.NoDA = true, true, false
		template.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{X: tpm2.TPM2BECCParameter{Buffer: []byte("IAK")}})
		p, err := tpm2.CreatePrimary{PrimaryHandle: tpm2.TPMRHEndorsement, InPublic: tpm2.New2B(template)}.Execute(b)
		if err != nil {
			return err
		}
		defer forget(b, p.ObjectHandle)
		if err := persist(b, p.ObjectHandle, p.Name, initialKey); err != nil {
			return err
		}
		k, err := readKey(b, initialKey)
		if err != nil {
			return err
		}
		public, err := attestation.SigningPublic(k.area)
		if err != nil {
			return err
		}
		cert := certify(public)
		owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
		_, err = tpm2.NVDefineSpace{AuthHandle: owner, PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
			NVIndex: initialCertificate, NameAlg: tpm2.TPMAlgSHA256, DataSize: uint16(len(cert)),
			Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
		})}.Execute(b)
		if err != nil {
			return err
		}
		name, err := nvName(b, initialCertificate)
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: initialCertificate, Name: name}, Data: tpm2.TPM2BMaxNVBuffer{Buffer: cert}}.Execute(b)
		return err
	})
}
