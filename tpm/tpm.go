// Package tpm keeps the identity of a box: two signing keys that never leave the chip, a counter that only goes up,
// and the clock of the chip. It is the only package that knows the TPM.
//
// The keys live in /dev/tpmrm0, in a spawned swtpm, or, where neither exists, in a file. What protects them is told by
// [TPM.Class] and [TPM.Label]; a file is never called anything but "NOT A TPM". Peers do not trust that word: they
// decide from the endorsement certificate ([attestation.EndorsementKey.Verify]).
//
// What stands in the chip (TPM 2.0 Library, part 2; TCG "TPM 2.0 Keys for Device Identity and Attestation"):
//
//	0x81000001  SRK     storage root, P-256 (or whatever the operating system has put there)
//	0x81000100  LDevID  data key, P-256, signs checkpoints; child of the SRK, ends with TPM2_Clear
//	0x81000101  LAK     attestation key, P-256, restricted, endorsement hierarchy
//	0x81000102  TLS     client key, P-256; child of the SRK
//	0x01800100  boot counter (TPM_NT_COUNTER)
//
// All of it is noDA: a power cut after use counts as a failed authorisation for anything else, and three of them would
// lock the box out of its own identity (part 1 §19.8). The authorisation value is 128 random bits kept beside the state.
package tpm

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Class says what holds the keys, by the box's own word: a device that does not call itself an emulator counts as hardware.
type Class = attestation.Class

const (
	Hardware = attestation.Hardware
	Emulated = attestation.Emulated
	Software = attestation.Software
)

const (
	labelEmulated = "emulated TPM (swtpm)"
	labelSoftware = "NOT A TPM (software key)"
	devicePath    = "/dev/tpmrm0"
)

// ErrIdentity marks errors that only a person can mend: the TPM that answers does not hold the keys this box was
// enrolled with (cleared, replaced, state lost), or holds keys this box has no password for.
var ErrIdentity = errors.New("not this box's identity")

// ErrLocked marks the refusal of a TPM that has counted too many wrong passwords: it recovers by itself in time.
var ErrLocked = errors.New("the TPM has locked itself")

// ErrClosed is returned by every use after Close.
var ErrClosed = errors.New("the TPM is closed")

// Options says where the keys are.
type Options struct {
	// Source is "auto", a device such as "/dev/tpmrm0", "swtpm" or "software"; empty means "auto".
	// "auto" stays with the source that Dir already has an identity of; else it takes /dev/tpmrm0, else swtpm where it
	// is installed, else a software key.
	Source string
	// Dir holds the authorisation value, the names of the keys, the state of swtpm, the software key. Created with mode 0700.
	Dir string
	// Firmware is what the running release brings with it. Keys made with it sign only under firmware that its release key
	// has approved; nil on a system that is not measured.
	Firmware *attestation.Firmware
	// Tolerant opens an identity that was made before even where the TPM does not answer, or another one does. Its keys are
	// known, their use fails until it is back; see [TPM.Boot].
	Tolerant bool
	Log      *slog.Logger // nil discards
}

// Boot tells one run of the box from another; the zero Boot says that the TPM has not been reached in this run. The counter is one
// more at each Open. (A swtpm or a file can be rolled back.)
type Boot = attestation.Boot

// TPM is an open identity. All methods may be called concurrently.
type TPM struct {
	class  Class
	label  string
	keeper keeper
	lock   *os.File
}

// keeper is what a chip and a file have in common.
type keeper interface {
	signer(name keyName) crypto.Signer
	boot() Boot
	clock() (uint64, error)
	close() error
}

// Open finds the keys, making them at the first start, and counts one boot. The first start of a swtpm takes a second or
// two; ctx bounds it. After Open a TPM that dies, hangs or is reset is opened again by itself at the next use.
func Open(ctx context.Context, o Options) (*TPM, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Dir == "" {
		return nil, errors.New("cannot open the TPM: no state directory given")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("cannot make the TPM state directory: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	t, err := open(ctx, o)
	if err != nil {
		lock.Close()
		return nil, err
	}
	t.lock = lock
	return t, nil
}

func open(ctx context.Context, o Options) (*TPM, error) {
	id, err := readIdentity(o.Dir)
	if err != nil {
		return nil, err
	}
	source, err := choose(o, id)
	if err != nil {
		return nil, err
	}
	var g *gate
	if o.Firmware != nil {
		g = &gate{firmware: o.Firmware}
	}
	switch kindOf(source) {
	case "software":
		k, err := openSoftware(o.Dir, id)
		if err != nil {
			return nil, err
		}
		return &TPM{class: Software, label: labelSoftware, keeper: k}, nil
	case "swtpm":
		c := &chip{source: "swtpm", patience: swtpmPatience, id: id, gate: g, log: o.Log,
			dial: func(ctx context.Context) (link, error) { return startSwtpm(ctx, o.Dir, o.Log) }}
		if err := c.open(ctx, o.Tolerant); err != nil {
			return nil, err
		}
		return &TPM{class: Emulated, label: labelEmulated, keeper: c}, nil
	default:
		c := &chip{source: "device", patience: devicePatience, id: id, gate: g, log: o.Log,
			dial: func(ctx context.Context) (link, error) { return openDevice(ctx, source) }}
		if err := c.open(ctx, o.Tolerant); err != nil {
			return nil, err
		}
		if c.id.Emulator {
			return &TPM{class: Emulated, label: labelEmulated, keeper: c}, nil
		}
		return &TPM{class: Hardware, label: "TPM 2.0 at " + source, keeper: c}, nil
	}
}

// kindOf is what the identity file remembers of a source: a device may change its number, its keys tell whether it is the same.
func kindOf(source string) string {
	if strings.HasPrefix(source, "/") {
		return "device"
	}
	return source
}

func choose(o Options, id *identity) (string, error) {
	switch {
	case o.Source == "" || o.Source == "auto":
	case o.Source == "swtpm", o.Source == "software", strings.HasPrefix(o.Source, "/"):
		if id.Source != "" && kindOf(o.Source) != id.Source {
			return "", fmt.Errorf("cannot open the TPM at %q: %s holds an identity kept by %s; name that source, or move the directory away and enrol the box anew", o.Source, o.Dir, id.Source)
		}
		return o.Source, nil
	default:
		return "", fmt.Errorf(`cannot open the TPM at %q: the source must be "auto", a device such as "/dev/tpmrm0", "swtpm" or "software"`, o.Source)
	}
	switch id.Source { // an identity stays where it was made
	case "device":
		return devicePath, nil
	case "swtpm":
		return "swtpm", nil
	case "software":
		if _, err := os.Stat(devicePath); err == nil {
			o.Log.Warn("a TPM is present but this box keeps its software key: move the TPM directory away and enrol anew to use the TPM", "device", devicePath, "dir", o.Dir)
		}
		return "software", nil
	}
	f, err := os.OpenFile(devicePath, os.O_RDWR, 0)
	switch {
	case err == nil:
		return devicePath, f.Close()
	case errors.Is(err, unix.EBUSY):
		return devicePath, nil
	case errors.Is(err, fs.ErrPermission):
		o.Log.Warn("a TPM is present but may not be opened: add the user to the group of the device (tss on most systems)", "device", devicePath)
	case !errors.Is(err, fs.ErrNotExist):
		return "", fmt.Errorf("cannot open the TPM: %w; set the source to swtpm or software to go on without it", err)
	}
	if _, err := exec.LookPath("swtpm"); err == nil {
		return "swtpm", nil
	}
	return "software", nil
}

// Class says what holds the keys.
func (t *TPM) Class() Class { return t.class }

// Label says the same to a person: "TPM 2.0 at /dev/tpmrm0", "emulated TPM (swtpm)" or "NOT A TPM (software key)".
func (t *TPM) Label() string { return t.label }

// Data is the key that signs checkpoints (LDevID): P-256, SHA-256 digests only, signatures in ASN.1 DER.
func (t *TPM) Data() crypto.Signer { return t.keeper.signer(dataKey) }

// TLS is the key of the box's client certificate: P-256, SHA-256 digests only, signatures in ASN.1 DER.
func (t *TPM) TLS() crypto.Signer { return t.keeper.signer(tlsKey) }

// Boot returns the counters of this run. Resets and Restarts rise within a run when the TPM was reset under a running
// box; its clock may have gone back by then, so order times by (Resets, Restarts, Clock).
func (t *TPM) Boot() Boot { return t.keeper.boot() }

// Clock returns TPMS_CLOCK_INFO.clock, the milliseconds the TPM has been powered in its life (part 1 §36.3), and brings
// Boot up to date. The software key counts from Open.
func (t *TPM) Clock() (ms uint64, err error) { return t.keeper.clock() }

// Close ends the TPM in order. Later calls return ErrClosed.
func (t *TPM) Close() error {
	err := t.keeper.close()
	return errors.Join(err, t.lock.Close())
}

// lockDir makes this process the only user of dir. The lock ends with the process.
func lockDir(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the TPM state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot lock the TPM state directory %s: another vitalgate uses it; stop that one first: %w", dir, err)
	}
	return f, nil
}
