package maintain

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/firmware/measured"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
	"github.com/vitalgate/vitalgate/record/enrolment"
	"github.com/vitalgate/vitalgate/tpm"
)

// folder is the box's whole state on disk. Each file of this room is one of its methods.
type folder string

func (d folder) linkKey() string { return filepath.Join(string(d), "link.key") }    // PEM PKCS #8: key and claim are the label
func (d folder) claim() string   { return filepath.Join(string(d), "claim") }       //
func (d folder) config() string  { return filepath.Join(string(d), "config.toml") } // its being there makes the box owned
func (d folder) grant() string   { return filepath.Join(string(d), "grant.json") }
func (d folder) data() string    { return filepath.Join(string(d), "data") } // box.data
func (d folder) tpm() string     { return filepath.Join(d.data(), "tpm") }

func (d folder) lock() string { return filepath.Join(string(d), "lock") }

var errInUse = errors.New("another vitalgate works on it; stop that one first")

// open makes the folder where there is none, and this process the only one that works on it: two would differ over whose the box is.
// The lock ends with the process.
func (d folder) open() (unlock func(), err error) {
	if err := d.make(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(d.lock(), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot lock the box's folder: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errInUse
		}
		return nil, fmt.Errorf("cannot use the box's folder %s: %w", d, err)
	}
	if err := d.tidy(); err != nil {
		f.Close()
		return nil, fmt.Errorf("cannot use the box's folder: %w", err)
	}
	return func() { f.Close() }, nil
}

func (d folder) make() error {
	if err := os.MkdirAll(string(d), 0o700); err != nil {
		return fmt.Errorf("cannot make the box's folder: %w", err)
	}
	st, err := os.Stat(string(d))
	if err != nil {
		return fmt.Errorf("cannot use the box's folder: %w", err)
	}
	if st.Mode().Perm()&0o067 != 0 { // that a group may pass through it is how the image lets the line to its data
		return fmt.Errorf("cannot use the box's folder %s: others may read it (mode %v); run: chmod 700 %s", d, st.Mode().Perm(), d)
	}
	return nil
}

// tidy removes what a power cut has left of trials and of files that were being written: there may be keys in it.
func (d folder) tidy() error {
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "trial-") || strings.HasSuffix(e.Name(), ".new") {
			if err := os.RemoveAll(filepath.Join(string(d), e.Name())); err != nil {
				return err
			}
		}
	}
	return durable.SyncDir(string(d))
}

// identity is who the box is on the link.
type identity struct {
	label       protocol.Label
	certificate tls.Certificate
}

// owner is whose the box is.
type owner struct {
	id        record.BoxID
	authority *x509.Certificate // nil: the grant cannot be read, so nobody is let in
}

// identity reads the label, or makes it. The link key is a file and not in the TPM: a box whose chip is dead must still be
// reachable, and all that the key vouches for is that this is the box with this label.
func (d folder) identity() (identity, error) {
	text, err := os.ReadFile(d.linkKey())
	if errors.Is(err, fs.ErrNotExist) {
		if text, err = newLinkKey(); err == nil {
			err = durable.WriteFile(d.linkKey(), text)
		}
	}
	if err != nil {
		return identity{}, fmt.Errorf("cannot keep the link key: %w", err)
	}
	claim, err := os.ReadFile(d.claim())
	if errors.Is(err, fs.ErrNotExist) {
		claim = []byte(protocol.NewClaim() + "\n")
		err = durable.WriteFile(d.claim(), claim)
	}
	if err != nil {
		return identity{}, fmt.Errorf("cannot keep the claim code: %w", err)
	}
	code, ok := protocol.ParseClaim(string(claim))
	if !ok {
		return identity{}, fmt.Errorf("cannot use the claim code in %s: it is damaged; remove the file, and print a new label", d.claim())
	}
	block, _ := pem.Decode(text)
	if block == nil {
		return identity{}, fmt.Errorf("cannot use the link key %s: it is damaged; remove the file, and print a new label", d.linkKey())
	}
	parsed, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return identity{}, fmt.Errorf("cannot use the link key %s: %w; remove the file, and print a new label", d.linkKey(), err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok {
		return identity{}, fmt.Errorf("cannot use the link key %s: it is not an ECDSA key", d.linkKey())
	}
	// The certificate only carries the key: the tool compares that with the label and looks at nothing else, no time in particular,
	// because a box without a clock must be reachable too (RFC 5280 §4.1.2.5: 99991231235959Z).
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "vitalgate box"},
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return identity{}, fmt.Errorf("cannot make the link's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return identity{}, err
	}
	return identity{label: protocol.Label{Key: protocol.KeyOf(leaf), Claim: code},
		certificate: tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}}, nil
}

func newLinkKey() ([]byte, error) {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

// owned says whether the box is somebody's.
func (d folder) owned() bool {
	_, err := os.Stat(d.config())
	return !errors.Is(err, fs.ErrNotExist)
}

// owner is whose the box is, by the folder as it is now; nil, nobody's. With an error the box is owned, and nobody can be let in.
func (d folder) owner() (*owner, error) {
	if !d.owned() {
		return nil, nil
	}
	cfg, err := config.Load(d.config())
	if err != nil {
		return &owner{}, err
	}
	o := &owner{}
	if o.id, err = record.ParseBoxID(cfg.Box.ID); err != nil {
		return o, err
	}
	g, err := enrolment.ReadGrant(d.grant())
	if err != nil {
		return o, err
	}
	o.authority, err = enrolment.ParseCertificate(g.CA)
	return o, err
}

// check says whether the parts of p, with those that the box has already, make a box that works.
func (d folder) check(ctx context.Context, p protocol.Provision, log *slog.Logger) error {
	trial, err := os.MkdirTemp(string(d), "trial-")
	if err != nil {
		return fmt.Errorf("cannot check the provisioning: %w", err)
	}
	defer os.RemoveAll(trial)
	t := folder(trial)
	for _, part := range []struct {
		text      []byte
		old, new_ string
		what      string
	}{{[]byte(p.Config), d.config(), t.config(), "configuration"}, {p.Grant, d.grant(), t.grant(), "grant"}} {
		text := part.text
		if len(text) == 0 {
			if text, err = os.ReadFile(part.old); errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("cannot provision: the %s is missing, and this box has none yet", part.what)
			} else if err != nil {
				return fmt.Errorf("cannot read the box's %s: %w", part.what, err)
			}
		}
		if err := os.WriteFile(part.new_, text, 0o600); err != nil {
			return fmt.Errorf("cannot check the provisioning: %w", err)
		}
	}
	cfg, id, err := t.plan()
	if err != nil {
		return err
	}
	return d.withChip(ctx, cfg.TPM.Source, log, func(chip *tpm.TPM) error {
		_, err := enrol.Open(t.grant(), id, chip, d.data())
		return without(err, t)
	})
}

// plan reads the configuration of a trial and says whether a provisioned box can have it.
func (t folder) plan() (*config.Config, record.BoxID, error) {
	cfg, err := config.Load(t.config())
	if err != nil {
		return nil, record.BoxID{}, fmt.Errorf("cannot use the configuration: %w", without(err, t))
	}
	switch {
	case cfg.Box.Data != t.data():
		return nil, record.BoxID{}, errors.New(`cannot use the configuration: on a provisioned box box.data must be "data"`)
	case cfg.Network.Grant != t.grant():
		return nil, record.BoxID{}, errors.New(`cannot use the configuration: on a provisioned box network.grant must be "grant.json"`)
	}
	id, err := record.ParseBoxID(cfg.Box.ID)
	return cfg, id, err
}

// checkPlan says whether the configuration could be that of the box with the name. Nothing is kept.
func (d folder) checkPlan(box record.BoxID, text string) error {
	trial, err := os.MkdirTemp(string(d), "trial-")
	if err != nil {
		return fmt.Errorf("cannot check the configuration: %w", err)
	}
	defer os.RemoveAll(trial)
	t := folder(trial)
	if err := os.WriteFile(t.config(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("cannot check the configuration: %w", err)
	}
	_, id, err := t.plan()
	if err != nil {
		return err
	}
	if id != box {
		return fmt.Errorf("cannot use the configuration: it is that of box %s, and this one is to be %s; box.id must be the same", id, box)
	}
	return nil
}

// without says an error without the name of the folder of the trial, which means nothing to a person.
func without(err error, t folder) error {
	if err == nil {
		return nil
	}
	return errors.New(strings.ReplaceAll(err.Error(), string(t)+string(filepath.Separator), ""))
}

// withChip opens the box's keys. The line from monitor to network must not run: it holds them.
func (d folder) withChip(ctx context.Context, source string, log *slog.Logger, use func(*tpm.TPM) error) error {
	if err := os.MkdirAll(d.data(), 0o700); err != nil {
		return fmt.Errorf("cannot make the data folder: %w", err)
	}
	firmware, err := measured.Firmware()
	if err != nil {
		return err
	}
	chip, err := tpm.Open(ctx, tpm.Options{Source: source, Dir: d.tpm(), Firmware: firmware, Log: log})
	if err != nil {
		return err
	}
	return errors.Join(use(chip), chip.Close())
}

// keep makes p last. The configuration comes last: it makes the box owned.
func (d folder) keep(p protocol.Provision) error {
	if len(p.Grant) > 0 {
		if err := durable.WriteFile(d.grant(), p.Grant); err != nil {
			return fmt.Errorf("cannot keep the grant: %w", err)
		}
	}
	if p.Config != "" {
		if err := durable.WriteFile(d.config(), []byte(p.Config)); err != nil {
			return fmt.Errorf("cannot keep the configuration: %w", err)
		}
	}
	return nil
}

// wipe makes the folder that of a new box. The keys go first: without them nothing of the rest is worth anything. Then goes the
// configuration, and only after it what lets the owner in, his grant and the label: a reset that was cut short leaves a box that its
// owner can reset again, or one that is nobody's. A chip that does not answer holds up nothing: the password of its keys is gone with
// the folder, and the note says so.
func (d folder) wipe(ctx context.Context, label bool, log *slog.Logger) (note string, err error) {
	if _, err := os.Stat(d.tpm()); err == nil {
		if err := tpm.Decommission(ctx, tpm.Options{Source: "auto", Dir: d.tpm(), Log: log}); err != nil {
			note = "The keys in the TPM could not be removed: " + err.Error() + ". Their password is gone, so they are of no use to anybody."
			log.Error("reset: " + note)
		}
	}
	last := []string{d.grant()}
	if label {
		last = append(last, d.linkKey(), d.claim())
	}
	for _, paths := range [][]string{{d.data()}, {d.config()}, last} {
		var failed []error
		for _, path := range paths {
			failed = append(failed, os.RemoveAll(path))
		}
		if err := errors.Join(append(failed, durable.SyncDir(string(d)))...); err != nil {
			return note, fmt.Errorf("cannot wipe the box: %w; try again", err)
		}
	}
	if err := d.tidy(); err != nil {
		return note, fmt.Errorf("cannot wipe the box: %w; try again", err)
	}
	return note, nil
}

func (d folder) configText() (string, error) {
	b, err := os.ReadFile(d.config())
	if err != nil {
		return "", fmt.Errorf("cannot read the box's configuration: %w", err)
	}
	return string(b), nil
}
