package hwtest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"time"

	"github.com/vitalgate/vitalgate/tpm"
)

// ErrInUse as TPMError says that the running box has the TPM.
var ErrInUse = errors.New("the TPM is in use")

// testTPM has the chip test itself and sign, reads its counter, its clock and what its maker says of it.
func testTPM(ctx context.Context, t *tester) {
	const remedy = "Enable the TPM in the firmware setup, clear it there if it refuses, else replace the module."
	if t.TPM == nil {
		err := t.TPMError
		if err == nil {
			err = errors.New("none was opened")
		}
		if errors.Is(err, ErrInUse) {
			t.not("", "Stop the box, or let vitalprov ask for the test: that stops it for the time.", "The box runs and has the TPM for itself.")
			return
		}
		t.fail("", nil, remedy, "The TPM cannot be used: %v.", err)
		return
	}
	a, err := t.TPM.Attestor()
	if errors.Is(err, tpm.ErrNoTPM) {
		t.fail(t.TPM.Label(), nil, "For patients, use a box with a TPM 2.0 chip.", "This box has no TPM.")
		return
	}
	began := time.Now()
	if err := a.SelfTest(ctx); err != nil {
		t.fail("self-test", nil, remedy, "The chip does not pass its own test: %v.", err)
	} else {
		t.pass("self-test", map[string]float64{"seconds": time.Since(began).Seconds()}, "The chip passes its own test (%s).", t.TPM.Label())
	}
	testSigning(t, remedy)

	keys, err := a.EndorsementKeys(ctx)
	certified := 0
	for _, k := range keys {
		if len(k.Certificate) > 0 {
			certified++
		}
	}
	switch {
	case err != nil:
		t.fail("endorsement", nil, remedy, "The endorsement keys cannot be read: %v.", err)
	case certified == 0:
		t.fail("endorsement", nil, "Without it no facility can know the chip for one. Ask the maker of the module for one that has its certificate.", "The chip holds no certificate of its maker.")
	default:
		t.pass("endorsement", map[string]float64{"certificates": float64(certified)}, "The chip holds the certificate of its maker.")
	}
	if _, err := a.CertifyCounter(ctx, []byte("hwtest")); err != nil {
		t.fail("counter", nil, remedy, "The counter in the chip's memory cannot be read: %v.", err)
	} else {
		t.pass("counter", map[string]float64{"boots": float64(t.TPM.Boot().Counter)}, "The counter in the chip's memory works.")
	}
	first, err := t.TPM.Clock()
	if err == nil {
		time.Sleep(50 * time.Millisecond)
		var second uint64
		if second, err = t.TPM.Clock(); err == nil && second <= first {
			err = errors.New("it stands still")
		}
	}
	if err != nil {
		t.fail("clock", nil, remedy, "The clock of the chip does not work: %v.", err)
	} else {
		t.pass("clock", nil, "The clock of the chip goes.")
	}
}

// testSigning measures what the box does with the chip all day.
func testSigning(t *tester, remedy string) {
	key := t.TPM.Data()
	public, ok := key.Public().(*ecdsa.PublicKey)
	if !ok {
		t.fail("signing", nil, remedy, "The chip's key is not an ECDSA key.")
		return
	}
	const times = 16
	var most time.Duration
	began := time.Now()
	for range times {
		digest := sha256.Sum256([]byte(rand.Text()))
		one := time.Now()
		sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
		most = max(most, time.Since(one))
		if err != nil {
			t.fail("signing", nil, remedy, "The chip does not sign: %v.", err)
			return
		}
		if !ecdsa.VerifyASN1(public, digest[:], sig) {
			t.fail("signing", nil, "Replace the module.", "The chip gives wrong signatures.")
			return
		}
	}
	mean := time.Since(began) / times
	figures := map[string]float64{"mean_ms": mean.Seconds() * 1e3, "most_ms": most.Seconds() * 1e3, "per_second": 1 / mean.Seconds()}
	if mean > time.Second {
		t.fail("signing", figures, "Readings reach the network late with it: replace the module.", "The chip takes %v for a signature.", mean.Round(time.Millisecond))
		return
	}
	t.pass("signing", figures, "%d signatures, all good.", times)
}
