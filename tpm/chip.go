package tpm

import (
	"context"
	"crypto"
	"encoding/asn1"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"strings"
	"sync"
	"time"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

const (
	srkHandle  = tpm2.TPMHandle(0x81000001) // TCG TPM v2.0 Provisioning Guidance §7.5.1
	dataHandle = tpm2.TPMHandle(0x81000100)
	lakHandle  = tpm2.TPMHandle(0x81000101)
	tlsHandle  = tpm2.TPMHandle(0x81000102)
)

// key is a persistent key of the chip.
type key struct {
	handle tpm2.TPMHandle
	name   tpm2.TPM2BName
	area   tpm2.TPMTPublic
}

func (k key) auth(s tpm2.Session) tpm2.AuthHandle {
	return tpm2.AuthHandle{Handle: k.handle, Name: k.name, Auth: s}
}

// chip is an identity in a TPM. One mutex owns the connection: a TPM does one command after the other.
type chip struct {
	source   string // "device" or "swtpm"
	dial     func(context.Context) (link, error)
	patience patience
	id       *identity
	gate     *gate // nil where no firmware is told: keys that are bound to one do not sign
	log      *slog.Logger
	signers  map[keyName]*signer

	mu      sync.Mutex
	closed  bool
	bus     *bus // nil while there is no connection
	keys    map[keyName]key
	session tpm2.Session // salted and encrypting, used again and again; nil when it must be made anew
	flush   func() error
	policed tpm2.Session // the same for keys that are bound to the firmware
	release func() error // its flush
	booted  Boot
	refused error // why the last attempt to connect failed
	resting time.Time
}

// rest keeps callers from hammering a TPM that is gone.
const rest = time.Second

// patienceAtStart bounds the wait for a TPM whose keys are known: a box whose TPM hangs must not keep its monitors waiting.
const patienceAtStart = 10 * time.Second

// open reaches the TPM. Where it is tolerant, an identity that is known will do: the TPM is reached when it can be.
func (c *chip) open(ctx context.Context, tolerant bool) error {
	known := c.recall()
	if tolerant = tolerant && known; tolerant {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, patienceAtStart, fmt.Errorf("the TPM did not answer within %v", patienceAtStart))
		defer cancel()
	}
	err := c.do(ctx, "open the TPM", func(transport.TPM, tpm2.Session) error { return nil })
	if err != nil && !tolerant {
		c.close()
		return err
	}
	if err != nil {
		c.log.Error("the box starts without its TPM", "why", err)
	}
	c.signers = map[keyName]*signer{dataKey: c.newSigner(dataKey), tlsKey: c.newSigner(tlsKey)}
	return nil
}

// recall takes the keys from the identity, and says whether all are there.
func (c *chip) recall() bool {
	keys := map[keyName]key{}
	for name, handle := range map[keyName]tpm2.TPMHandle{dataKey: dataHandle, tlsKey: tlsHandle, lakKey: lakHandle} {
		area, err := tpm2.Unmarshal[tpm2.TPMTPublic](c.id.Areas[name])
		if err != nil {
			return false
		}
		if _, err := attestation.SigningPublic(*area); err != nil {
			return false
		}
		object, err := tpm2.ObjectName(area)
		if err != nil || c.id.Keys[name] != hex.EncodeToString(object.Buffer) {
			return false
		}
		keys[name] = key{handle, *object, *area}
	}
	c.keys = keys
	return true
}

// do runs f with the TPM and the session. It tries twice: a lost connection (dead or hung TPM) or a lost session (TPM
// reset, context swapped out) costs the first try and is made anew for the second.
func (c *chip) do(ctx context.Context, what string, f func(transport.TPM, tpm2.Session) error) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for try := 1; ; try++ {
		err := c.try(ctx, f)
		if err == nil {
			return nil
		}
		c.endSession()
		if c.bus != nil && c.bus.broken != nil {
			err = c.bus.broken // go-tpm may have wrapped it in more
			c.disconnect()
		}
		if c.bus != nil && c.source == "swtpm" && errors.Is(err, tpm2.TPMRCFailure) {
			// A TPM in failure mode, as where its disk was full, leaves it when it is powered off and on (part 1 §12.4). This one we can.
			c.disconnect()
		}
		if try == 2 || c.closed || ctx.Err() != nil || c.bus == nil && c.refused != nil || errors.Is(err, ErrIdentity) || errors.Is(err, ErrFirmware) {
			return fmt.Errorf("cannot %s: %w", what, explain(err))
		}
		c.log.Warn("the TPM failed and is tried again", "while", what, "why", err)
	}
}

func (c *chip) try(ctx context.Context, f func(transport.TPM, tpm2.Session) error) error {
	if c.closed {
		return ErrClosed
	}
	if c.bus == nil {
		if c.refused != nil && time.Now().Before(c.resting) {
			return c.refused
		}
		if c.refused = c.connect(ctx); c.refused != nil {
			c.resting = time.Now().Add(rest)
			return c.refused
		}
	}
	c.bus.ctx = ctx
	if c.session == nil {
		if err := c.newSession(); err != nil {
			return err
		}
	}
	if c.booted.Counter == 0 { // the first time in this run
		n, err := c.count(c.bus)
		if err != nil {
			return err
		}
		c.booted.Counter = n
	}
	return f(c.bus, c.session)
}

// connect reaches the TPM and finds this box's keys in it, making them at the very first time.
func (c *chip) connect(ctx context.Context) error {
	l, err := c.dial(ctx)
	if err != nil {
		return err
	}
	c.bus = &bus{ctx: ctx, link: l, patience: c.patience}
	if err := c.attach(); err != nil {
		if c.bus.broken != nil {
			err = c.bus.broken
		}
		c.disconnect()
		return err
	}
	return nil
}

func (c *chip) attach() error {
	v, err := vendor(c.bus)
	if err != nil {
		return err
	}
	c.id.Emulator = strings.HasPrefix(v, "IBM") && strings.Contains(v, "SW") // libtpms: manufacturer IBM, vendor string "SW   TPM"
	if err := c.id.begin(c.source); err != nil {
		return err
	}
	keys, err := c.findKeys()
	if err != nil {
		return err
	}
	if c.id.Keys == nil { // keys found rather than made may have another password
		for _, name := range []keyName{dataKey, tlsKey} {
			if err := provePassword(c.bus, keys[name], []byte(c.id.Auth)); err != nil {
				if authFailed(err) {
					return fmt.Errorf("the TPM holds a key at %#x that is protected by another password; restore %s, or remove that key (tpm2_evictcontrol -C o -c %#[1]x) and enrol the box anew: %[3]w",
						uint32(keys[name].handle), c.id.path, ErrIdentity)
				}
				return err
			}
		}
	}
	found, areas := map[keyName]string{}, map[keyName][]byte{}
	for name, k := range keys {
		found[name], areas[name] = hex.EncodeToString(k.name.Buffer), tpm2.Marshal(k.area)
	}
	if c.id.Keys == nil {
		c.id.Areas = areas
	}
	if err := c.id.check(found, c.bus.link.String()); err != nil {
		return err
	}
	if c.id.Areas == nil { // an identity of before they were remembered
		c.id.Areas = areas
		if err := c.id.save(); err != nil {
			return err
		}
	}
	c.keys = keys
	return nil
}

// findKeys reads every key, and makes what is missing as long as the identity is not complete.
func (c *chip) findKeys() (map[keyName]key, error) {
	keys := map[keyName]key{}
	for _, k := range []struct {
		name   keyName
		handle tpm2.TPMHandle
		make   func(at tpm2.TPMHandle, keys map[keyName]key) error
	}{
		{srkKey, srkHandle, c.makeSRK},
		{dataKey, dataHandle, c.makeSigner},
		{tlsKey, tlsHandle, c.makeSigner},
		{lakKey, lakHandle, c.makeLAK},
	} {
		found, err := readKey(c.bus, k.handle)
		if errors.Is(err, tpm2.TPMRCHandle) {
			// Primary keys come out of the chip's seed the same again: SRK and LAK may be put back.
			if c.id.Keys != nil && k.name != srkKey && k.name != lakKey {
				return nil, fmt.Errorf("the TPM (%v) no longer holds this box's %s key at %#x: it was cleared or replaced, or its state was lost; put the old one back, or move the TPM directory away and enrol the box anew: %w",
					c.bus.link, k.name, uint32(k.handle), ErrIdentity)
			}
			if err := k.make(k.handle, keys); err != nil {
				return nil, fmt.Errorf("cannot make the %s key: %w", k.name, err)
			}
			found, err = readKey(c.bus, k.handle)
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the %s key at %#x: %w", k.name, uint32(k.handle), err)
		}
		keys[k.name] = found
	}
	for _, name := range []keyName{dataKey, tlsKey, lakKey} {
		got := keys[name].area
		want := attestation.SigningKey(name == lakKey, got.AuthPolicy.Buffer)
		_, err := attestation.SigningPublic(got)
		if err != nil || got.ObjectAttributes != want.ObjectAttributes {
			return nil, fmt.Errorf("the key at %#x of the TPM is not a %s key of vitalgate; remove it (tpm2_evictcontrol -C o -c %#[1]x): %[3]w", uint32(keys[name].handle), name, ErrIdentity)
		}
	}
	return keys, nil
}

// readKey computes the Name from the public area itself rather than taking the answer's word.
func readKey(t transport.TPM, handle tpm2.TPMHandle) (key, error) {
	r, err := tpm2.ReadPublic{ObjectHandle: handle}.Execute(t)
	if err != nil {
		return key{}, err
	}
	area, err := r.OutPublic.Contents()
	if err != nil {
		return key{}, err
	}
	name, err := tpm2.ObjectName(area)
	if err != nil {
		return key{}, err
	}
	return key{handle, *name, *area}, nil
}

// salted is a session for one command, keyed by a secret only the SRK can read, that encrypts the first parameter.
func salted(srk key, o ...tpm2.AuthOption) tpm2.Session {
	return tpm2.HMAC(tpm2.TPMAlgSHA256, 16, append(o, tpm2.Salted(srk.handle, srk.area))...)
}

var encrypted = tpm2.AESEncryption(128, tpm2.EncryptIn)

func (c *chip) secret() tpm2.TPM2BSensitiveCreate {
	return tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{UserAuth: tpm2.TPM2BAuth{Buffer: []byte(c.id.Auth)}}}
}

func (c *chip) makeSRK(tpm2.TPMHandle, map[keyName]key) error {
	_, err := ensureSRK(c.bus)
	return err
}

// ensureSRK is the storage root key, made and put in place where there is none.
func ensureSRK(t transport.TPM) (key, error) {
	k, err := readKey(t, srkHandle)
	if !errors.Is(err, tpm2.TPMRCHandle) {
		return k, err
	}
	p, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		InPublic:      tpm2.New2B(tpm2.ECCSRKTemplate),
	}.Execute(t)
	if err != nil {
		return key{}, err
	}
	defer forget(t, p.ObjectHandle)
	if err := persist(t, p.ObjectHandle, p.Name, srkHandle); err != nil {
		return key{}, err
	}
	return readKey(t, srkHandle)
}

func (c *chip) makeSigner(at tpm2.TPMHandle, keys map[keyName]key) error {
	srk := keys[srkKey]
	var policy []byte
	if c.gate != nil { // the key is this box's only under a firmware that is released, started as this one was
		pcrs, err := readPCRs(c.bus, []uint{attestation.SecureBootPCR})
		if err != nil {
			return err
		}
		if policy, err = c.gate.firmware.IdentityPolicy(pcrs[attestation.SecureBootPCR]); err != nil {
			return err
		}
	}
	k, err := tpm2.Create{
		ParentHandle: srk.auth(salted(srk, encrypted)),
		InSensitive:  c.secret(),
		InPublic:     tpm2.New2B(attestation.SigningKey(false, policy)),
	}.Execute(c.bus)
	if err != nil {
		return err
	}
	l, err := tpm2.Load{ParentHandle: srk.auth(tpm2.PasswordAuth(nil)), InPrivate: k.OutPrivate, InPublic: k.OutPublic}.Execute(c.bus)
	if err != nil {
		return err
	}
	defer forget(c.bus, l.ObjectHandle)
	return persist(c.bus, l.ObjectHandle, l.Name, at)
}

// makeLAK makes the attestation key in the endorsement hierarchy: for keys of the owner hierarchy a TPM obfuscates
// resetCount, restartCount and firmwareVersion (part 1 §36.7).
func (c *chip) makeLAK(at tpm2.TPMHandle, keys map[keyName]key) error {
	p, err := tpm2.CreatePrimary{
		PrimaryHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHEndorsement, Auth: salted(keys[srkKey], encrypted)},
		InSensitive:   c.secret(),
		InPublic:      tpm2.New2B(attestation.SigningKey(true, nil)),
	}.Execute(c.bus)
	if err != nil {
		return err
	}
	defer forget(c.bus, p.ObjectHandle)
	return persist(c.bus, p.ObjectHandle, p.Name, at)
}

func persist(t transport.TPM, object tpm2.TPMHandle, name tpm2.TPM2BName, at tpm2.TPMHandle) error {
	_, err := tpm2.EvictControl{
		Auth:             tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)},
		ObjectHandle:     &tpm2.NamedHandle{Handle: object, Name: name},
		PersistentHandle: at,
	}.Execute(t)
	return err
}

func forget(t transport.TPM, object tpm2.TPMHandle) {
	tpm2.FlushContext{FlushHandle: object}.Execute(t) // if it fails the next Reset or the resource manager forgets it
}

// newSession starts the session that all signatures share: starting one costs as much as signing. A new session may be
// due to a reset of the TPM, so the reset counters are read again.
func (c *chip) newSession() error {
	if _, err := c.readClock(); err != nil {
		return err
	}
	srk := c.keys[srkKey]
	s, flush, err := tpm2.HMACSession(c.bus, tpm2.TPMAlgSHA256, 16, tpm2.Auth([]byte(c.id.Auth)), encrypted, tpm2.Salted(srk.handle, srk.area))
	if err != nil {
		return err
	}
	c.session, c.flush = s, flush
	return nil
}

// authorize is the session that lets a key sign: the shared one, or for a key that is bound to the firmware one that has
// satisfied its policy. The TPM forgets what was satisfied with each use (part 1 §19.7).
func (c *chip) authorize(t transport.TPM, k key, shared tpm2.Session) (tpm2.Session, error) {
	if len(k.area.AuthPolicy.Buffer) == 0 {
		return shared, nil
	}
	if c.gate == nil {
		return nil, fmt.Errorf("the key signs only under a released firmware, and this program was not told which it is part of: %w", ErrFirmware)
	}
	if c.policed == nil {
		srk := c.keys[srkKey]
		s, flush, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16, tpm2.Auth([]byte(c.id.Auth)), encrypted, tpm2.Salted(srk.handle, srk.area))
		if err != nil {
			return nil, err
		}
		c.policed, c.release = s, flush
	}
	if err := c.gate.satisfy(t, c.policed.Handle(), attestation.Identity); err != nil {
		return nil, err
	}
	_, err := tpm2.PolicyAuthValue{PolicySession: c.policed.Handle()}.Execute(t)
	return c.policed, err
}

func (c *chip) endSession() {
	if c.session != nil && c.bus != nil && c.bus.broken == nil {
		c.flush() // it may be gone already
	}
	if c.policed != nil && c.bus != nil && c.bus.broken == nil {
		c.release()
	}
	c.session, c.flush, c.policed, c.release = nil, nil, nil, nil
	if c.gate != nil {
		c.gate.verified = nil // tickets end with the hierarchy they were made under
	}
}

func (c *chip) disconnect() {
	c.endSession()
	if c.bus != nil {
		c.bus.link.close()
		c.bus = nil
	}
}

func (c *chip) readClock() (uint64, error) {
	r, err := tpm2.ReadClock{}.Execute(c.bus)
	if err != nil {
		return 0, err
	}
	info := r.CurrentTime.ClockInfo
	if c.booted.Counter != 0 && (info.ResetCount != c.booted.Resets || info.RestartCount != c.booted.Restarts) {
		c.log.Warn("the TPM was reset under the running box", "resets", info.ResetCount, "restarts", info.RestartCount)
	}
	c.booted.Resets, c.booted.Restarts = info.ResetCount, info.RestartCount
	return info.Clock, nil
}

// count adds one to the NV counter and returns its value. A counter that was removed begins again above the highest
// value this TPM ever held (part 3 §31.8).
func (c *chip) count(t transport.TPM) (uint64, error) {
	name, err := counterName(t)
	if errors.Is(err, tpm2.TPMRCHandle) {
		_, err = tpm2.NVDefineSpace{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: salted(c.keys[srkKey], encrypted)},
			Auth:       tpm2.TPM2BAuth{Buffer: []byte(c.id.Auth)},
			PublicInfo: tpm2.New2B(attestation.CounterArea()),
		}.Execute(t)
		if err != nil {
			return 0, fmt.Errorf("cannot make the boot counter: %w", err)
		}
		name, err = counterName(t)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot find the boot counter: %w", err)
	}
	auth := func() tpm2.AuthHandle {
		return tpm2.AuthHandle{Handle: attestation.CounterHandle, Name: name, Auth: salted(c.keys[srkKey], tpm2.Auth([]byte(c.id.Auth)))}
	}
	if _, err := (tpm2.NVIncrement{AuthHandle: auth(), NVIndex: tpm2.NamedHandle{Handle: attestation.CounterHandle, Name: name}}).Execute(t); err != nil {
		if authFailed(err) {
			return 0, fmt.Errorf("the boot counter at %#x of the TPM is protected by another password; remove it (tpm2_nvundefine -C o %#[1]x): %w", uint32(attestation.CounterHandle), ErrIdentity)
		}
		return 0, fmt.Errorf("cannot raise the boot counter: %w", err)
	}
	if name, err = counterName(t); err != nil { // the first increment sets TPMA_NV_WRITTEN, which is part of the Name
		return 0, err
	}
	r, err := tpm2.NVRead{AuthHandle: auth(), NVIndex: tpm2.NamedHandle{Handle: attestation.CounterHandle, Name: name}, Size: 8}.Execute(t)
	if err != nil {
		return 0, fmt.Errorf("cannot read the boot counter: %w", err)
	}
	if len(r.Data.Buffer) != 8 {
		return 0, fmt.Errorf("cannot read the boot counter: it has %d bytes, not 8", len(r.Data.Buffer))
	}
	return binary.BigEndian.Uint64(r.Data.Buffer), nil
}

func counterName(t transport.TPM) (tpm2.TPM2BName, error) {
	return nvName(t, attestation.CounterHandle)
}

func nvName(t transport.TPM, index tpm2.TPMHandle) (tpm2.TPM2BName, error) {
	r, err := tpm2.NVReadPublic{NVIndex: index}.Execute(t)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	area, err := r.NVPublic.Contents()
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	name, err := tpm2.NVName(area)
	if err != nil {
		return tpm2.TPM2BName{}, err
	}
	return *name, nil
}

// vendor reads TPM_PT_MANUFACTURER and TPM_PT_VENDOR_STRING_1 to _4 (part 2 §6.13).
func vendor(t transport.TPM) (string, error) {
	r, err := tpm2.GetCapability{Capability: tpm2.TPMCapTPMProperties, Property: uint32(tpm2.TPMPTManufacturer), PropertyCount: 5}.Execute(t)
	if err != nil {
		return "", err
	}
	props, err := r.CapabilityData.Data.TPMProperties()
	if err != nil {
		return "", err
	}
	var b []byte
	for _, p := range props.TPMProperty {
		b = binary.BigEndian.AppendUint32(b, p.Value)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return ' '
		}
		return r
	}, string(b)), nil
}

func (c *chip) signer(name keyName) crypto.Signer { return c.signers[name] }

func (c *chip) newSigner(name keyName) *signer {
	public, err := attestation.SigningPublic(c.keys[name].area)
	if err != nil {
		panic(err) // findKeys has looked
	}
	return &signer{public, func(digest []byte) (sig []byte, err error) {
		err = c.do(context.Background(), "sign with the "+string(name)+" key", func(t transport.TPM, s tpm2.Session) error {
			k := c.keys[name]
			s, err := c.authorize(t, k, s)
			if err == nil {
				sig, err = signWith(t, k, digest, s)
			}
			return err
		})
		return sig, err
	}}
}

// provePassword shows that the password is the key's, by the one command that asks for nothing else: TPM2_Certify without
// a signature.
func provePassword(t transport.TPM, k key, password []byte) error {
	_, err := tpm2.Certify{
		ObjectHandle: k.auth(tpm2.PasswordAuth(password)),
		SignHandle:   tpm2.AuthHandle{Handle: tpm2.TPMRHNull, Auth: tpm2.PasswordAuth(nil)},
		InScheme:     tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},
	}.Execute(t)
	return err
}

func signWith(t transport.TPM, k key, digest []byte, s tpm2.Session) ([]byte, error) {
	r, err := tpm2.Sign{
		KeyHandle:  k.auth(s),
		Digest:     tpm2.TPM2BDigest{Buffer: digest},
		InScheme:   tpm2.TPMTSigScheme{Scheme: tpm2.TPMAlgNull},                               // the key's own
		Validation: tpm2.TPMTTKHashCheck{Tag: tpm2.TPMSTHashCheck, Hierarchy: tpm2.TPMRHNull}, // unrestricted keys need no ticket
	}.Execute(t)
	if err != nil {
		return nil, err
	}
	return derSignature(&r.Signature)
}

// derSignature takes r and s as integers: some chips leave leading zeros away, some do not.
func derSignature(s *tpm2.TPMTSignature) ([]byte, error) {
	e, err := s.Signature.ECDSA()
	if err != nil {
		return nil, fmt.Errorf("the TPM gave a signature that is not ECDSA: %w", err)
	}
	return asn1.Marshal(struct{ R, S *big.Int }{new(big.Int).SetBytes(e.SignatureR.Buffer), new(big.Int).SetBytes(e.SignatureS.Buffer)})
}

func (c *chip) boot() Boot {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.booted
}

func (c *chip) clock() (ms uint64, err error) {
	err = c.do(context.Background(), "read the clock of the TPM", func(transport.TPM, tpm2.Session) error {
		ms, err = c.readClock()
		return err
	})
	return ms, err
}

// close ends the session and, where the TPM ends with us, tells it that the power goes.
func (c *chip) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	if c.bus == nil {
		return nil
	}
	c.bus.ctx = context.Background()
	c.endSession()
	var err error
	if c.source == "swtpm" {
		_, err = tpm2.Shutdown{ShutdownType: tpm2.TPMSUClear}.Execute(c.bus)
	}
	c.disconnect()
	if err != nil {
		return fmt.Errorf("cannot shut the TPM down in order: %w", explain(err))
	}
	return nil
}

func authFailed(err error) bool {
	return errors.Is(err, tpm2.TPMRCAuthFail) || errors.Is(err, tpm2.TPMRCBadAuth)
}

// explain adds to what the TPM says what a person can do.
func explain(err error) error {
	if errors.Is(err, tpm2.TPMRCPolicyFail) {
		return fmt.Errorf("the box was started in another secure boot state than this was made in; restore the secure boot keys, or reset the box and enrol it anew: %w: %w", ErrFirmware, err)
	}
	if errors.Is(err, tpm2.TPMRCLockout) {
		return fmt.Errorf("%w after wrong passwords; it recovers in time, or run tpm2_dictionarylockout --clear-lockout: %w", ErrLocked, err)
	}
	for _, e := range []struct {
		rc   tpm2.TPMRC
		what string
	}{
		{tpm2.TPMRCFailure, "the TPM is in failure mode; power the box off and on, and replace the TPM if it stays so"},
		{tpm2.TPMRCAuthFail, "the TPM refused a password; the owner and endorsement passwords must be empty and the TPM directory must be the one the keys were made with"},
		{tpm2.TPMRCBadAuth, "the TPM refused a password; the owner and endorsement passwords must be empty and the TPM directory must be the one the keys were made with"},
		{tpm2.TPMRCNVSpace, "the TPM has no room left; remove keys or indexes of other programs (tpm2_getcap handles-persistent)"},
		{tpm2.TPMRCHierarchy, "a hierarchy of the TPM is disabled; enable it in the firmware setup"},
		{tpm2.TPMRCInitialize, "the TPM was not started by the firmware; power the box off and on"},
	} {
		if errors.Is(err, e.rc) {
			return fmt.Errorf("%s: %w", e.what, err)
		}
	}
	return err
}
