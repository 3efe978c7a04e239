package tpm

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"sync"

	"github.com/google/go-tpm/tpm2"
	"github.com/google/go-tpm/tpm2/transport"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// rollbackHandle is the NV index of the lowest release the box still starts.
const rollbackHandle = tpm2.TPMHandle(0x01800101)

// Vault is the TPM as the first process of a box needs it, before there is a disk: it keeps the key of the disk, and the
// lowest release that may run. Its methods may be called concurrently.
type Vault struct {
	device string
	mu     sync.Mutex
	bus    *bus
}

// OpenVault opens the TPM device, such as "/dev/tpmrm0".
func OpenVault(ctx context.Context, device string) (*Vault, error) {
	v := &Vault{device: device}
	if err := v.dial(ctx); err != nil {
		return nil, err
	}
	return v, nil
}

func (v *Vault) dial(ctx context.Context) error {
	l, err := openDevice(ctx, v.device)
	if err != nil {
		return err
	}
	v.bus = &bus{ctx: ctx, link: l, patience: devicePatience}
	return nil
}

// Close lets go of the device.
func (v *Vault) Close() error {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.bus.link.close()
}

func (v *Vault) do(ctx context.Context, what string, f func(transport.TPM) error) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.bus.broken != nil { // the one before did not end in order; the chip may be well again
		old := v.bus.link
		if err := v.dial(ctx); err != nil {
			return fmt.Errorf("cannot %s: %w", what, err)
		}
		old.close()
	}
	v.bus.ctx = ctx
	if err := f(v.bus); err != nil {
		if v.bus.broken != nil {
			err = v.bus.broken
		}
		return fmt.Errorf("cannot %s: %w", what, explain(err))
	}
	return nil
}

// sealed is a secret as it lies on the disk (TPM2_Create): for one TPM, under one policy.
type sealed struct {
	Version int    `json:"version"`
	Public  []byte `json:"public"`  // TPM2B_PUBLIC without its size
	Private []byte `json:"private"` // TPM2B_PRIVATE without its size
}

// Seal wraps a secret of at most 128 bytes so that only this TPM gives it back, only under a firmware that the release
// key has approved for it, only in the secure boot state of now, and only until [Vault.Shut].
func (v *Vault) Seal(ctx context.Context, secret []byte, firmware *attestation.Firmware) (blob []byte, err error) {
	err = v.do(ctx, "seal the key of the disk", func(t transport.TPM) error {
		pcrs, err := readPCRs(t, []uint{attestation.SecureBootPCR})
		if err != nil {
			return err
		}
		policy, err := firmware.UnsealPolicy(pcrs[attestation.SecureBootPCR])
		if err != nil {
			return err
		}
		srk, err := ensureSRK(t)
		if err != nil {
			return err
		}
		r, err := tpm2.Create{
			ParentHandle: srk.auth(salted(srk, encrypted)),
			InSensitive: tpm2.TPM2BSensitiveCreate{Sensitive: &tpm2.TPMSSensitiveCreate{
				Data: tpm2.NewTPMUSensitiveCreate(&tpm2.TPM2BSensitiveData{Buffer: secret}),
			}},
			InPublic: tpm2.New2B(tpm2.TPMTPublic{
				Type: tpm2.TPMAlgKeyedHash, NameAlg: tpm2.TPMAlgSHA256,
				ObjectAttributes: tpm2.TPMAObject{FixedTPM: true, FixedParent: true, AdminWithPolicy: true, NoDA: true},
				AuthPolicy:       tpm2.TPM2BDigest{Buffer: policy},
			}),
		}.Execute(t)
		if err != nil {
			return err
		}
		blob, err = json.Marshal(sealed{Version: 1, Public: r.OutPublic.Bytes(), Private: r.OutPrivate.Buffer})
		return err
	})
	return blob, err
}

// Unseal gives the secret back. The error wraps [ErrIdentity] where another TPM has sealed it, or this one was cleared
// since, and [ErrFirmware] where the firmware or the secure boot state is not as it must be.
func (v *Vault) Unseal(ctx context.Context, blob []byte, firmware *attestation.Firmware) (secret []byte, err error) {
	err = v.do(ctx, "unseal the key of the disk", func(t transport.TPM) error {
		var s sealed
		if err := json.Unmarshal(blob, &s); err != nil || s.Version != 1 {
			return fmt.Errorf("what is sealed cannot be read (version %d): %w", s.Version, err)
		}
		srk, err := ensureSRK(t)
		if err != nil {
			return err
		}
		l, err := tpm2.Load{
			ParentHandle: srk.auth(salted(srk)),
			InPrivate:    tpm2.TPM2BPrivate{Buffer: s.Private},
			InPublic:     tpm2.BytesAs2B[tpm2.TPMTPublic](s.Public),
		}.Execute(t)
		if errors.Is(err, tpm2.TPMRCIntegrity) {
			return fmt.Errorf("it was sealed by another TPM, or this one was cleared since; put the disk back into its box, or reset the box: %w", ErrIdentity)
		}
		if err != nil {
			return err
		}
		defer tpm2.FlushContext{FlushHandle: l.ObjectHandle}.Execute(t)
		session, end, err := tpm2.PolicySession(t, tpm2.TPMAlgSHA256, 16, tpm2.AESEncryption(128, tpm2.EncryptOut), tpm2.Salted(srk.handle, srk.area))
		if err != nil {
			return err
		}
		defer end()
		g := gate{firmware: firmware}
		if err := g.satisfy(t, session.Handle(), attestation.Unsealing); err != nil {
			return err
		}
		r, err := tpm2.Unseal{ItemHandle: key{handle: l.ObjectHandle, name: l.Name}.auth(session)}.Execute(t)
		if err != nil {
			return err
		}
		secret = r.OutData.Buffer
		return nil
	})
	return secret, err
}

// Shut ends unsealing until the next start of the box: PCR 11 is extended, and no approval for unsealing is for that
// value. From then on the keys of the box may sign.
func (v *Vault) Shut(ctx context.Context) error {
	return v.do(ctx, "shut the vault", func(t transport.TPM) error {
		return extendPCR(t, attestation.FirmwarePCR, attestation.Opened[:])
	})
}

// PCRs reads values of the SHA-256 bank.
func (v *Vault) PCRs(ctx context.Context, numbers ...uint) (values attestation.PCRs, err error) {
	err = v.do(ctx, "read the PCRs", func(t transport.TPM) error {
		values, err = readPCRs(t, numbers)
		return err
	})
	return values, err
}

// Rollback is the lowest release index that may still be started; 0 where none was ever set.
func (v *Vault) Rollback(ctx context.Context) (index uint64, err error) {
	err = v.do(ctx, "read the rollback index", func(t transport.TPM) error {
		data, err := readNV(t, rollbackHandle)
		if errors.Is(err, tpm2.TPMRCHandle) || errors.Is(err, tpm2.TPMRCNVUninitialized) {
			return nil
		}
		if err == nil && len(data) != 8 {
			err = fmt.Errorf("it has %d bytes, not 8", len(data))
		}
		if err != nil {
			return err
		}
		index = binary.BigEndian.Uint64(data)
		return nil
	})
	return index, err
}

// RaiseRollback sets the lowest release index. It is never lowered; the same again writes nothing.
func (v *Vault) RaiseRollback(ctx context.Context, to uint64) error {
	now, err := v.Rollback(ctx)
	if err != nil || now == to {
		return err
	}
	if to < now {
		return fmt.Errorf("cannot lower the rollback index from %d to %d: an older release stays refused", now, to)
	}
	return v.do(ctx, "raise the rollback index", func(t transport.TPM) error {
		owner := tpm2.PasswordAuth(nil)
		name, err := nvName(t, rollbackHandle)
		if errors.Is(err, tpm2.TPMRCHandle) {
			_, err = tpm2.NVDefineSpace{
				AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: owner},
				PublicInfo: tpm2.New2B(tpm2.TPMSNVPublic{
					NVIndex: rollbackHandle, NameAlg: tpm2.TPMAlgSHA256, DataSize: 8,
					Attributes: tpm2.TPMANV{OwnerWrite: true, OwnerRead: true, AuthRead: true, NoDA: true, NT: tpm2.TPMNTOrdinary},
				}),
			}.Execute(t)
			if err != nil {
				return err
			}
			name, err = nvName(t, rollbackHandle)
		}
		if err != nil {
			return err
		}
		_, err = tpm2.NVWrite{
			AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: owner},
			NVIndex:    tpm2.NamedHandle{Handle: rollbackHandle, Name: name},
			Data:       tpm2.TPM2BMaxNVBuffer{Buffer: binary.BigEndian.AppendUint64(nil, to)},
		}.Execute(t)
		return err
	})
}

// Clock is TPMS_CLOCK_INFO: the milliseconds that the TPM has been powered in its life, and how often it was reset.
func (v *Vault) Clock(ctx context.Context) (resets uint32, ms uint64, err error) {
	err = v.do(ctx, "read the clock of the TPM", func(t transport.TPM) error {
		r, err := tpm2.ReadClock{}.Execute(t)
		if err != nil {
			return err
		}
		resets, ms = r.CurrentTime.ClockInfo.ResetCount, r.CurrentTime.ClockInfo.Clock
		return nil
	})
	return resets, ms, err
}

// Clear is TPM2_Clear: the SRK and all below it are gone, so nothing that was ever sealed opens again, and the identity of
// the box has ended. The rollback index goes too; set it anew before the next start.
func (v *Vault) Clear(ctx context.Context) error {
	return v.do(ctx, "clear the TPM", func(t transport.TPM) error {
		_, err := tpm2.Clear{AuthHandle: tpm2.AuthHandle{Handle: tpm2.TPMRHLockout, Auth: tpm2.PasswordAuth(nil)}}.Execute(t)
		return err
	})
}
