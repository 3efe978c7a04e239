package main

import (
	"bytes"
	"cmp"
	"context"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
)

type registryCmd struct {
	Keygen         keygenCmd         `cmd:"" help:"Make the key of an administrator in a file (a token's key does as well)."`
	Init           registryInitCmd   `cmd:"" help:"Write the genesis of a registry that several administrators decide, for them to sign."`
	Propose        proposeCmd        `cmd:"" help:"Write any decision to a file, for administrators to sign."`
	Sign           signCmd           `cmd:"" help:"Sign a proposed entry."`
	Text           textCmd           `cmd:"" help:"Print exactly what is to be signed, for openssl or a token."`
	Submit         submitCmd         `cmd:"" help:"Take signed entries, or a whole log, into the registry of this peer."`
	Log            logCmd            `cmd:"" help:"List all decisions."`
	Show           showCmd           `cmd:"" help:"Print one entry, or say who decides."`
	Verify         registryVerifyCmd `cmd:"" help:"Verify the whole registry again, this peer's or one in a file."`
	Restore        restoreCmd        `cmd:"" help:"Replace a damaged registry by the log of another peer."`
	Administrators administratorsCmd `cmd:"" help:"Replace the administrators."`
	DenyChip       denyChipCmd       `cmd:"" help:"Stop every box with a chip, and let none in with it."`
	DenyFirmware   denyFirmwareCmd   `cmd:"" help:"Let no box in with a firmware."`
}

// deciding are the flags of all commands that decide something.
type deciding struct {
	data
	ProposeTo string `name:"propose" placeholder:"FILE" help:"Write the decision to FILE for administrators to sign, in place of taking it at once."`
	Key       string `name:"administrator-key" placeholder:"FILE" help:"Sign with this key (default the one in the data folder)."`
}

// decide makes the next entry of the registry, signs it with the key at hand and takes it into force, or writes it as a
// proposal.
func (c *deciding) decide(ctx context.Context, d registry.Decision) error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	unlock, err := lockDeciding(c.dir())
	if err != nil {
		return err
	}
	defer unlock()
	n, enough, err := c.dir().Decide(d, c.Key)
	if err != nil {
		return err
	}
	if c.ProposeTo != "" {
		return writeProposal(c.ProposeTo, n)
	}
	if !enough {
		return fmt.Errorf("cannot %s: that needs the signatures of more administrators than can sign here; --propose FILE writes it for them to sign", d.Summary())
	}
	began := time.Now()
	if err := submit(ctx, c.dir(), [][]byte{n.Bytes()}); err != nil {
		return err
	}
	fmt.Printf("Decided as entry %d: %s. In force here after %v; the other peers hear of it at once, or when they are back.\n", n.Entry.Index, d.Summary(), time.Since(began).Round(time.Millisecond))
	return nil
}

func writeProposal(path string, n *registry.Note) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the proposal: %w; remove the old file or name another", err)
	}
	_, err = f.Write(n.Bytes())
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cannot write the proposal: %w", err)
	}
	fmt.Printf("NOT YET IN FORCE. Entry %d, to %s, is proposed in %s.\n", n.Entry.Index, n.Entry.Decision.Summary(), path)
	fmt.Printf("Each administrator: vitalpeer registry sign %s --name NAME --key FILE; then: vitalpeer registry submit %s --data DIR\n", path, path)
	return nil
}

// submit takes entries into the registry of a running or a stopped peer, in order.
func submit(ctx context.Context, d facility.Dir, entries [][]byte) error {
	for patience := time.Now().Add(lockPatience); ; {
		unlock, err := lock(d)
		if err == nil {
			defer unlock()
			log, err := d.Registry().Open()
			if err != nil {
				return err
			}
			for i, e := range entries {
				if err := log.Append(e); err != nil {
					return fmt.Errorf("cannot take entry %d of the file into the registry: %w", i, err)
				}
			}
			return nil
		}
		if !errors.Is(err, errRunning) {
			return err
		}
		a, err := socketSource{d}.do(ctx, http.MethodPost, "/registry", bytes.NewReader(bytes.Join(entries, []byte("\n"))))
		if err == nil {
			return a.Body.Close()
		}
		var refused decisionRefused
		if errors.As(err, &refused) || time.Now().After(patience) || ctx.Err() != nil {
			return err
		}
		time.Sleep(50 * time.Millisecond) // the peer is starting or stopping
	}
}

// decisionRefused is what a running peer answers to an entry that it does not take.
type decisionRefused struct{ text string }

func (e decisionRefused) Error() string { return e.text }

// serveDecision takes in the entries that a command on this machine submits.
func (p *peer) serveDecision(w http.ResponseWriter, q *http.Request, take func([]byte) error) {
	b, err := io.ReadAll(http.MaxBytesReader(w, q.Body, 64<<20))
	if err != nil {
		http.Error(w, "cannot read the entries", http.StatusBadRequest)
		return
	}
	entries, err := registry.Split(b)
	for i := 0; i < len(entries) && err == nil; i++ {
		if err = take(entries[i]); err != nil {
			err = fmt.Errorf("cannot take entry %d of the file into the registry: %w", i, err)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusConflict)
	}
}

type keygenCmd struct {
	Out string `arg:"" help:"File for the private key; the public one goes to FILE.pub." placeholder:"FILE"`
}

func (c *keygenCmd) Run() error {
	public, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return err
	}
	text, err := facility.EncodeSigner(key)
	if err != nil {
		return err
	}
	spki, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return err
	}
	for _, f := range []struct {
		path string
		text []byte
		mode os.FileMode
	}{{c.Out, text, 0o600}, {c.Out + ".pub", pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), 0o644}} {
		out, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, f.mode)
		if err != nil {
			return fmt.Errorf("cannot write the key: %w", err)
		}
		_, err = out.Write(f.text)
		if err = errors.Join(err, out.Sync(), out.Close()); err != nil {
			return fmt.Errorf("cannot write the key: %w", err)
		}
	}
	fmt.Printf("The private key is in %s: keep it to yourself. %s.pub is for vitalpeer registry init.\n", c.Out, c.Out)
	return nil
}

// administrators reads public keys from files: NAME=FILE.
func administrators(files map[string]string) (all []registry.Administrator, err error) {
	for _, name := range sortedKeys(files) {
		k, err := readPublic(files[name])
		if err != nil {
			return nil, err
		}
		a, err := registry.NewAdministrator(name, k)
		if err != nil {
			return nil, fmt.Errorf("cannot use %s: %w", files[name], err)
		}
		all = append(all, a)
	}
	return all, nil
}

// readPublic reads the public key of an administrator.
func readPublic(path string) (crypto.PublicKey, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the public key: %w", err)
	}
	block, _ := pem.Decode(b)
	if block == nil || block.Type != "PUBLIC KEY" {
		return nil, fmt.Errorf("cannot use %s as a public key: it is not a PEM \"PUBLIC KEY\" (openssl pkey -pubout)", path)
	}
	k, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("cannot use %s as a public key: %w", path, err)
	}
	return k, nil
}

type registryInitCmd struct {
	Facility      string            `required:"" placeholder:"F1" help:"Name of the facility."`
	Administrator map[string]string `required:"" placeholder:"NAME=FILE" help:"An administrator and the PEM file of his public key: Ed25519 or ECDSA P-256. Once for each."`
	Threshold     int               `required:"" help:"How many of them must sign a decision."`
	Out           string            `short:"o" required:"" placeholder:"FILE" help:"Where to write the genesis."`
}

func (c *registryInitCmd) Run() error {
	all, err := administrators(c.Administrator)
	if err != nil {
		return err
	}
	n, err := facility.Genesis(c.Facility, all, c.Threshold)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(c.Out, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("cannot write the genesis: %w", err)
	}
	_, err = f.Write(n.Bytes())
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	fmt.Printf("The genesis is in %s. %d administrators must sign it: vitalpeer registry sign %s --name NAME --key FILE\n", c.Out, c.Threshold, c.Out)
	fmt.Printf("Then: vitalpeer init --facility %s --name HUB --genesis %s --data DIR\n", c.Facility, c.Out)
	return nil
}

type administratorsCmd struct {
	deciding
	Administrator map[string]string `required:"" placeholder:"NAME=FILE" help:"As in vitalpeer registry init; those that are not named are none any more."`
	Threshold     int               `required:"" help:"How many of them must sign a decision."`
}

func (c *administratorsCmd) Run(ctx context.Context) error {
	all, err := administrators(c.Administrator)
	if err != nil {
		return err
	}
	return c.decide(ctx, &registry.Administrators{Administrators: all, Threshold: c.Threshold})
}

type denyChipCmd struct {
	deciding
	Chip   string `arg:"" help:"Hex SHA-256 of the SubjectPublicKeyInfo of the chip's endorsement key."`
	Reason string `required:"" help:"Why; it stands in the registry."`
}

func (c *denyChipCmd) Run(ctx context.Context) error {
	return c.decide(ctx, &registry.DenyChip{Chip: c.Chip, Reason: c.Reason})
}

type denyFirmwareCmd struct {
	deciding
	Firmware string `arg:"" help:"Its version, as boxes tell it; or pcr11: and the hex value that it measures itself to (release) or that a box quotes which runs it (vitalpeer tail --all)."`
	Reason   string `required:"" help:"Why; it stands in the registry."`
}

func (c *denyFirmwareCmd) Run(ctx context.Context) error {
	return c.decide(ctx, &registry.DenyFirmware{Firmware: c.Firmware, Reason: c.Reason})
}

type proposeCmd struct {
	data
	What string `arg:"" help:"Kind of decision."`
	Body string `arg:"" help:"Its body in JSON, as vitalpeer registry show prints one."`
	Out  string `short:"o" required:"" placeholder:"FILE" help:"Where to write the proposal."`
}

func (c *proposeCmd) Run() error {
	d := registry.Blank(c.What)
	if d == nil {
		return fmt.Errorf("cannot propose %q: it is none of %s", c.What, strings.Join(registry.Kinds(), ", "))
	}
	j := json.NewDecoder(strings.NewReader(c.Body))
	j.DisallowUnknownFields()
	if err := j.Decode(d); err != nil {
		return fmt.Errorf("cannot propose %s: its body: %w", c.What, err)
	}
	log, err := c.dir().Registry().Open()
	if err != nil {
		return err
	}
	n, err := log.Propose(d)
	if err != nil {
		return err
	}
	return writeProposal(c.Out, n)
}

// readNote reads a proposal.
func readNote(path string) (*registry.Note, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read the entry: %w", err)
	}
	n, err := registry.Parse(b)
	if err != nil {
		return nil, fmt.Errorf("cannot use the entry %s: %w", path, err)
	}
	return n, nil
}

type signCmd struct {
	File      string `arg:"" type:"existingfile" help:"The proposed entry; the signature is added to it."`
	Name      string `required:"" help:"Of the administrator."`
	Key       string `xor:"with" required:"" placeholder:"FILE" type:"existingfile" help:"His private key, PEM PKCS #8."`
	Signature string `xor:"with" required:"" placeholder:"FILE" type:"existingfile" help:"Or a signature that openssl or a token has made over what vitalpeer registry text prints."`
	Public    string `placeholder:"FILE" type:"existingfile" help:"With --signature: his public key, PEM."`
}

func (c *signCmd) Run() error {
	n, err := readNote(c.File)
	if err != nil {
		return err
	}
	if c.Key != "" {
		key, err := facility.ReadSigner(c.Key)
		if err != nil {
			return err
		}
		a, err := registry.NewAdministrator(c.Name, key.Public())
		if err != nil {
			return err
		}
		err = n.Sign(a, key)
		if err != nil {
			return err
		}
	} else {
		if c.Public == "" {
			return errors.New("cannot add a signature without the public key that it is checked with: give --public FILE")
		}
		all, err := administrators(map[string]string{c.Name: c.Public})
		if err != nil {
			return err
		}
		sig, err := os.ReadFile(c.Signature)
		if err != nil {
			return fmt.Errorf("cannot read the signature: %w", err)
		}
		if err := n.Add(all[0], sig); err != nil {
			return err
		}
	}
	if err := os.WriteFile(c.File+".new", n.Bytes(), 0o644); err != nil {
		return fmt.Errorf("cannot write the entry: %w", err)
	}
	if err := os.Rename(c.File+".new", c.File); err != nil {
		return fmt.Errorf("cannot write the entry: %w", err)
	}
	fmt.Printf("%s has signed entry %d of facility %s: %s. It has %d signatures.\n", c.Name, n.Entry.Index, n.Entry.Facility, n.Entry.Decision.Summary(), len(n.Signatures))
	return nil
}

type textCmd struct {
	File string `arg:"" type:"existingfile" help:"The proposed entry."`
}

func (c *textCmd) Run() error {
	n, err := readNote(c.File)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(n.Text)
	return err
}

type submitCmd struct {
	data
	File []string `arg:"" type:"existingfile" help:"Signed entries, or the log of another peer."`
}

func (c *submitCmd) Run(ctx context.Context) error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	for _, f := range c.File {
		b, err := os.ReadFile(f)
		if err != nil {
			return fmt.Errorf("cannot read the entries: %w", err)
		}
		entries, err := registry.Split(b)
		if err != nil {
			return fmt.Errorf("cannot use %s: %w", f, err)
		}
		if err := submit(ctx, c.dir(), entries); err != nil {
			return err
		}
	}
	s, err := c.dir().Registry().Load()
	if err != nil {
		return err
	}
	fmt.Printf("The registry has %d entries, all in force here.\n", s.Size)
	return nil
}

type logCmd struct{ data }

func (c *logCmd) Run() error {
	log, err := c.dir().Registry().Open()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, b := range log.Entries(0, int(log.State().Size)) {
		n, err := registry.Parse(b)
		if err != nil {
			return err
		}
		var by []string
		for _, s := range n.Signatures {
			by = append(by, s.Name)
		}
		fmt.Fprintf(w, "%d\t%s\t%s\t%s\t%s\n", n.Entry.Index, n.Entry.Time.Format(time.RFC3339), n.Entry.Decision.Kind(), strings.Join(by, ","), n.Entry.Decision.Summary())
	}
	return w.Flush()
}

type showCmd struct {
	data
	Index *uint64 `arg:"" optional:"" help:"Index of the entry; without it, who decides and how far the registry goes."`
}

func (c *showCmd) Run() error {
	log, err := c.dir().Registry().Open()
	if err != nil {
		return err
	}
	if c.Index != nil {
		e := log.Entries(*c.Index, 1)
		if e == nil {
			return fmt.Errorf("cannot show entry %d: the registry has %d", *c.Index, log.State().Size)
		}
		_, err := os.Stdout.Write(e[0])
		return err
	}
	s := log.State()
	fmt.Printf("Registry of facility %s: %d entries, root %s.\n%d of these administrators decide:\n", s.Facility, s.Size, s.Root, s.Threshold)
	for _, a := range s.Administrators {
		fmt.Printf("%s\n%s", a.Name, a.Key)
	}
	return nil
}

type registryVerifyCmd struct {
	Data    string   `placeholder:"DIR" help:"A peer's data folder: its registry, or FILE compared with that."`
	RootKey []string `placeholder:"PEM" type:"existingfile" help:"Without a peer: the public key of an administrator who began the registry; once for each of them."`
	Pin     string   `placeholder:"HEX" help:"Or the SHA-256 that every peer of the facility keeps of the first entry (keys/registry.genesis)."`
	File    string   `arg:"" optional:"" type:"path" help:"A log, a folder that holds one, or with --data single entries too."`
}

func (c *registryVerifyCmd) Run() error {
	var b []byte
	if c.File != "" {
		path := c.File
		if i, err := os.Stat(path); err == nil && i.IsDir() {
			path = filepath.Join(path, "log")
		}
		var err error
		if b, err = os.ReadFile(path); err != nil {
			return fmt.Errorf("cannot read the registry: %w", err)
		}
	}
	switch anchored := c.Pin != "" || len(c.RootKey) > 0; {
	case c.Data == "" && c.File != "" && anchored:
		return c.alone(b)
	case c.Data == "" || anchored:
		return errors.New("cannot verify: name a peer (--data DIR), or a log and what it must begin with (FILE and --root-key PEM, or --pin HEX)")
	}
	log, err := facility.Dir(c.Data).Registry().Open()
	if err != nil {
		return err
	}
	s := log.State()
	if c.File == "" {
		fmt.Printf("%d entries verified, root %s.\n", s.Size, s.Root)
		return nil
	}
	entries, err := registry.Split(b)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", c.File, err)
	}
	var all error
	for _, e := range entries {
		what, err := log.Check(e)
		if err != nil {
			all = errors.Join(all, err)
			continue
		}
		fmt.Println(what)
	}
	return all
}

// alone verifies a log on a machine that has nothing else of the facility, and says what it comes to.
func (c *registryVerifyCmd) alone(log []byte) error {
	pin := c.Pin
	if len(c.RootKey) > 0 {
		var keys []crypto.PublicKey
		for _, path := range c.RootKey {
			k, err := readPublic(path)
			if err != nil {
				return err
			}
			keys = append(keys, k)
		}
		of, err := registry.PinOf(log, keys)
		if err != nil {
			return fmt.Errorf("cannot accept the registry %s: %w", c.File, err)
		}
		if pin != "" && pin != of {
			return fmt.Errorf("cannot accept the registry %s: its first entry is %s", c.File, of)
		}
		pin = of
	}
	s, err := registry.Verify(pin, log)
	if err != nil {
		return fmt.Errorf("cannot accept the registry %s: %w", c.File, err)
	}
	fmt.Printf("Registry of facility %s: %d entries verified, root %s, begun by %s.\n", s.Facility, s.Size, s.Root, pin)
	for _, a := range s.Administrators {
		fmt.Printf("administrator %s (%d of %d decide)\n", a.Name, s.Threshold, len(s.Administrators))
	}
	for _, r := range s.Boxes {
		spki, err := x509.MarshalPKIXPublicKey(r.Key())
		if err != nil {
			return err
		}
		end := "on"
		if r.Until != nil {
			end = fmt.Sprintf("to %d", *r.Until)
		}
		fmt.Printf("box %s: %s, records from %d %s, key %x, %s\n", r.Box, cmp.Or(r.Cut(), "in force"), r.From, end, sha256.Sum256(spki), r.Protection())
	}
	for _, p := range s.Peers {
		fmt.Printf("peer %s\n", p.Name)
	}
	return nil
}

type restoreCmd struct {
	data
	File string `arg:"" type:"existingfile" help:"The log of another peer (registry/log in its data folder)."`
}

func (c *restoreCmd) Run() error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	unlock, err := lock(c.dir())
	if errors.Is(err, errRunning) {
		return errors.New("cannot restore the registry of a running peer; stop it first (a running one takes what it lacks by itself, or with vitalpeer registry submit)")
	}
	if err != nil {
		return err
	}
	defer unlock()
	b, err := os.ReadFile(c.File)
	if err != nil {
		return fmt.Errorf("cannot read the log: %w", err)
	}
	if err := c.dir().Registry().Restore(b); err != nil {
		return fmt.Errorf("cannot restore from %s: %w", c.File, err)
	}
	s, err := c.dir().Registry().Load()
	if err != nil {
		return err
	}
	fmt.Printf("The registry has %d entries, all verified.\n", s.Size)
	return nil
}
