package appliance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vitalgate/vitalgate/firmware/update"
	"github.com/vitalgate/vitalgate/image/efi"
	"github.com/vitalgate/vitalgate/image/release"
)

// secureBoot says whether the firmware checks what it starts, and whether it still takes keys from anybody (UEFI 2.10 §32.3).
func secureBoot(u update.UEFI) (on, setup bool, err error) {
	is := func(name string) bool {
		b, e := u.Get(name, efi.GlobalVariable)
		if e != nil && !errors.Is(e, fs.ErrNotExist) {
			err = e
		}
		return len(b) == 1 && b[0] == 1
	}
	on, setup = is("SecureBoot"), is("SetupMode")
	return on, setup, err
}

// takeKeys is the factory's step: a firmware in setup mode is given the keys of the image. PK comes last; with it setup mode ends.
func takeKeys(u update.UEFI) error {
	for _, v := range []struct {
		name   string
		vendor efi.GUID
	}{{"db", efi.SecurityDatabase}, {"KEK", efi.GlobalVariable}, {"PK", efi.GlobalVariable}} {
		b, err := os.ReadFile(filepath.Join(release.FactoryKeys, v.name+".auth"))
		if err != nil {
			return fmt.Errorf("cannot read the keys of the image: %w", err)
		}
		if err := u.Set(v.name, v.vendor, efi.KeyAttributes, b); err != nil {
			return err
		}
	}
	return nil
}
