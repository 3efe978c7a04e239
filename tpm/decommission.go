package tpm

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/google/go-tpm/tpm2"

	"github.com/vitalgate/vitalgate/tpm/attestation"
)

// Decommission removes this box's keys and counter from the TPM and its files from Dir: the identity is gone for good,
// and the TPM is free for a new one. The SRK stays, it belongs to the operating system. It also frees a TPM whose
// password was lost with the disk, when Source names the device.
func Decommission(ctx context.Context, o Options) error {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("cannot decommission the TPM: %w", err)
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	id, err := readIdentity(o.Dir)
	if err != nil {
		return err
	}
	source, err := choose(o, id)
	if err != nil {
		return err
	}
	if kindOf(source) == "device" {
		if err := emptyDevice(ctx, source); err != nil {
			return fmt.Errorf("cannot decommission the TPM: %w", explain(err))
		}
	}
	// The identity goes last: as long as it is there, what is missing beside it is noticed.
	for _, name := range []string{"swtpm", softwareKeys, softwareCounter, identityFile} {
		if err := os.RemoveAll(filepath.Join(o.Dir, name)); err != nil {
			return fmt.Errorf("cannot decommission the TPM: %w", err)
		}
	}
	return syncDir(o.Dir)
}

func emptyDevice(ctx context.Context, path string) error {
	l, err := openDevice(ctx, path)
	if err != nil {
		return err
	}
	b := &bus{ctx: ctx, link: l, patience: devicePatience}
	defer l.close()
	owner := tpm2.AuthHandle{Handle: tpm2.TPMRHOwner, Auth: tpm2.PasswordAuth(nil)}
	for _, h := range []tpm2.TPMHandle{dataHandle, tlsHandle, lakHandle} {
		k, err := readKey(b, h)
		if errors.Is(err, tpm2.TPMRCHandle) {
			continue
		}
		if err != nil {
			return err
		}
		_, err = tpm2.EvictControl{Auth: owner, ObjectHandle: &tpm2.NamedHandle{Handle: h, Name: k.name}, PersistentHandle: h}.Execute(b)
		if err != nil {
			return fmt.Errorf("cannot remove the key at %#x: %w", uint32(h), err)
		}
	}
	name, err := counterName(b)
	if errors.Is(err, tpm2.TPMRCHandle) {
		return nil
	}
	if err != nil {
		return err
	}
	_, err = tpm2.NVUndefineSpace{AuthHandle: owner, NVIndex: tpm2.NamedHandle{Handle: attestation.CounterHandle, Name: name}}.Execute(b)
	if err != nil {
		return fmt.Errorf("cannot remove the boot counter: %w", err)
	}
	return nil
}
