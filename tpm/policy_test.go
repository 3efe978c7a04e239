package tpm_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"slices"
	"testing"

	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
	"github.com/vitalgate/vitalgate/tpm/tpmtest"
)

// What a UKI measures into PCR 11, and what secure boot measures into PCR 7.
var (
	versionOne = sha256.Sum256([]byte("release 1"))
	versionTwo = sha256.Sum256([]byte("release 2"))
	ourKeys    = sha256.Sum256([]byte("secure boot with our keys"))
	noKeys     = sha256.Sum256([]byte("secure boot is off"))
)

func releaseKey(t testing.TB) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return k
}

// approved is the firmware as the box finds it beside its kernel: it went through files.
func approved(t testing.TB, release crypto.Signer, uki [32]byte) *attestation.Firmware {
	t.Helper()
	f, err := attestation.Approve(release, attestation.Extend(make([]byte, 32), uki[:]))
	must(t, err)
	approvals, err := f.MarshalApprovals()
	must(t, err)
	spki, err := x509.MarshalPKIXPublicKey(release.Public())
	must(t, err)
	f, err = attestation.ParseFirmware(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}), approvals)
	must(t, err)
	return f
}

// boot starts the box on its TPM: secure boot and the UKI measure themselves, the disk is opened, the identity is used.
func boot(t testing.TB, dir string, f *attestation.Firmware, keys, uki [32]byte) (*tpm.TPM, *tpm.Vault) {
	t.Helper()
	x, err := tpm.OpenMeasured(t.Context(), tpm.Options{Source: "swtpm", Dir: dir, Firmware: f}, map[uint][]byte{
		attestation.SecureBootPCR: keys[:], attestation.FirmwarePCR: uki[:],
	})
	must(t, err)
	return x, x.Vault()
}

func TestAnUpdateKeepsTheIdentityAndOtherFirmwareHasNone(t *testing.T) {
	for name, release := range map[string]crypto.Signer{"ECDSA": releaseKey(t), "RSA": rsaKey(t)} {
		t.Run(name, func(t *testing.T) {
			dir := tpmtest.Dir(t)
			one, two := approved(t, release, versionOne), approved(t, release, versionTwo)
			x, v := boot(t, dir, one, ourKeys, versionOne)
			identity := public(x.Data())

			_, err := x.Data().Sign(nil, digest[:], nil)
			refusedAs(t, err, tpm.ErrFirmware) // before the disk is open nothing signs
			must(t, v.Shut(t.Context()))
			for range 3 {
				signs(t, x.Data())
				signs(t, x.TLS())
			}
			x.Kill(9) // the policy session and its ticket are gone with the emulator, and so are the PCRs
			_, err = x.Data().Sign(nil, digest[:], nil)
			refusedAs(t, err, tpm.ErrFirmware)
			stop(t, x)

			x, v = boot(t, dir, two, ourKeys, versionTwo)
			must(t, v.Shut(t.Context()))
			if !public(x.Data()).Equal(identity) {
				t.Fatal("the update changed the identity")
			}
			signs(t, x.Data())
			stop(t, x)

			for name, c := range map[string]struct {
				firmware  *attestation.Firmware
				keys, uki [32]byte
			}{
				"the approval of another release":        {one, ourKeys, versionTwo},
				"firmware that another key has released": {approved(t, releaseKey(t), versionTwo), ourKeys, versionTwo},
				"secure boot off":                        {two, noKeys, versionTwo},
				"no firmware told":                       {nil, ourKeys, versionTwo},
				"an approval for unsealing alone":        {relabelled(two), ourKeys, versionTwo},
			} {
				x, v := boot(t, dir, c.firmware, c.keys, c.uki)
				must(t, v.Shut(t.Context()))
				if _, err := x.Data().Sign(nil, digest[:], nil); !errors.Is(err, tpm.ErrFirmware) {
					t.Errorf("%s: signing gives %v", name, err)
				}
				if _, err := x.TLS().Sign(nil, digest[:], nil); !errors.Is(err, tpm.ErrFirmware) {
					t.Errorf("%s: a TLS connection gives %v", name, err)
				}
				stop(t, x)
			}
			x, v = boot(t, dir, two, ourKeys, versionTwo) // all that refusing has not harmed it
			must(t, v.Shut(t.Context()))
			signs(t, x.Data())
			stop(t, x)
		})
	}
}

// relabelled takes the approvals of one purpose for the other.
func relabelled(f *attestation.Firmware) *attestation.Firmware {
	g := *f
	g.Approvals = slices.Clone(f.Approvals)
	for i := range g.Approvals {
		if g.Approvals[i].Purpose == attestation.Identity {
			g.Approvals[i].Purpose = attestation.Unsealing
		} else {
			g.Approvals[i].Purpose = attestation.Identity
		}
	}
	return &g
}

func rsaKey(t testing.TB) crypto.Signer {
	k, err := rsa.GenerateKey(rand.Reader, 2048)
	must(t, err)
	return k
}

// The policy that a verifier computes from the release key and PCR 7 is the one in the key.
func TestAVerifierKnowsThePolicy(t *testing.T) {
	f := approved(t, releaseKey(t), versionOne)
	x, v := boot(t, tpmtest.Dir(t), f, ourKeys, versionOne)
	defer stop(t, x)
	must(t, v.Shut(t.Context()))
	a, lak := attestor(t, x)
	quote, pcrs, err := a.Quote(t.Context(), nonce, attestation.SecureBootPCR, attestation.FirmwarePCR)
	must(t, err)
	_, err = lak.Quoted(quote, nonce, pcrs)
	must(t, err)
	want, err := f.IdentityPolicy(pcrs[attestation.SecureBootPCR])
	must(t, err)
	s, err := a.CertifyData(t.Context(), nonce)
	must(t, err)
	key, _, err := lak.Certified(s, nonce, a.Areas().Data)
	must(t, err)
	if !bytes.Equal(key.Policy(), want) {
		t.Errorf("the key has policy %x, its verifier expects %x", key.Policy(), want)
	}
	other, err := approved(t, releaseKey(t), versionOne).IdentityPolicy(pcrs[attestation.SecureBootPCR])
	must(t, err)
	if bytes.Equal(key.Policy(), other) {
		t.Error("two release keys give one policy")
	}
}

func TestTheDisksKeyOpensOnceAndOnlyHere(t *testing.T) {
	dir := tpmtest.Dir(t)
	release := releaseKey(t)
	one, two := approved(t, release, versionOne), approved(t, release, versionTwo)
	secret := []byte("64 bytes of a key for the disk, which nobody outside the TPM has")
	x, v := boot(t, dir, one, ourKeys, versionOne)
	blob, err := v.Seal(t.Context(), secret, one)
	must(t, err)
	if bytes.Contains(blob, secret) {
		t.Fatal("the secret stands in what is sealed")
	}
	got, err := v.Unseal(t.Context(), blob, one)
	must(t, err)
	if !bytes.Equal(got, secret) {
		t.Fatal("another secret comes out")
	}
	for i := 0; i < len(blob); i += 5 { // no change of what is sealed is taken for another secret
		bad := bytes.Clone(blob)
		bad[i] ^= 1
		if got, err := v.Unseal(t.Context(), bad, one); err == nil && !bytes.Equal(got, secret) {
			t.Fatalf("byte %d changed: %q", i, got)
		}
	}
	must(t, v.Shut(t.Context()))
	_, err = v.Unseal(t.Context(), blob, one)
	refusedAs(t, err, tpm.ErrFirmware)
	_, err = v.Unseal(t.Context(), blob, relabelled(one)) // the approval of the identity is for this very PCR 11
	refusedAs(t, err, tpm.ErrFirmware)
	stop(t, x)

	for name, c := range map[string]struct {
		firmware  *attestation.Firmware
		keys, uki [32]byte
		want      error
	}{
		"an update":       {two, ourKeys, versionTwo, nil},
		"the same again":  {one, ourKeys, versionOne, nil},
		"secure boot off": {one, noKeys, versionOne, tpm.ErrFirmware},
		"other firmware":  {one, ourKeys, versionTwo, tpm.ErrFirmware},
		"another release": {approved(t, releaseKey(t), versionOne), ourKeys, versionOne, tpm.ErrFirmware},
	} {
		x, v := boot(t, dir, c.firmware, c.keys, c.uki)
		got, err := v.Unseal(t.Context(), blob, c.firmware)
		if !errors.Is(err, c.want) || c.want == nil && !bytes.Equal(got, secret) {
			t.Errorf("%s: %v", name, err)
		}
		stop(t, x)
	}

	other := tpmtest.Open(t)
	must(t, other.Vault().Measure(t.Context(), attestation.SecureBootPCR, ourKeys[:]))
	must(t, other.Vault().Measure(t.Context(), attestation.FirmwarePCR, versionOne[:]))
	_, err = other.Vault().Unseal(t.Context(), blob, one)
	refusedAs(t, err, tpm.ErrIdentity)

	x, v = boot(t, dir, one, ourKeys, versionOne)
	must(t, v.Clear(t.Context()))
	_, err = v.Unseal(t.Context(), blob, one)
	refusedAs(t, err, tpm.ErrIdentity)
	must(t, v.Shut(t.Context()))
	if _, err := x.Data().Sign(nil, digest[:], nil); err == nil {
		t.Error("the key signs after TPM2_Clear")
	}
	stop(t, x)
}

func TestTheRollbackIndexOnlyRises(t *testing.T) {
	dir := tpmtest.Dir(t)
	x := open(t, "swtpm", dir)
	v := x.Vault()
	at := func(want uint64) {
		t.Helper()
		if got, err := v.Rollback(t.Context()); err != nil || got != want {
			t.Fatalf("the index is %d (%v), want %d", got, err, want)
		}
	}
	at(0)
	must(t, v.RaiseRollback(t.Context(), 0))
	must(t, v.RaiseRollback(t.Context(), 3))
	at(3)
	must(t, v.RaiseRollback(t.Context(), 3))
	refused(t, v.RaiseRollback(t.Context(), 2), "older release")
	at(3)
	x.PowerCut()
	x = open(t, "swtpm", dir)
	defer stop(t, x)
	v = x.Vault()
	at(3)
	must(t, v.RaiseRollback(t.Context(), 1<<40))
	at(1 << 40)
}

func TestReleaseKeysThatNoTPMTakes(t *testing.T) {
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	must(t, err)
	_, err = attestation.Approve(p384, versionOne[:])
	refused(t, err, "must be ECDSA P-256")
	_, err = attestation.Approve(releaseKey(t), versionOne[:31])
	refused(t, err, "not 31")
	_, err = attestation.ParseFirmware([]byte("no key"), nil)
	refused(t, err, "PUBLIC KEY")
}
