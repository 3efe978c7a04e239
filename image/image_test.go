package main

import (
	"bytes"
	"crypto/ecdsa"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/vitalgate/vitalgate/image/disk"
	"github.com/vitalgate/vitalgate/image/efi"
	"github.com/vitalgate/vitalgate/image/release"
)

// built is a release of this test program on bytes that stand for a kernel: what the image tool does with them is the same.
var built = sync.OnceValues(func() (*buildOf, error) { return newBuild("1.2.3+test", 7) })

type buildOf struct {
	dir   string // of keys
	keys  *keyring
	files map[string][]byte
	m     *release.Manifest
}

func newBuild(version string, index uint32) (*buildOf, error) {
	parent, err := os.MkdirTemp("", "image-test")
	if err != nil {
		return nil, err
	}
	b := &buildOf{dir: filepath.Join(parent, "keys")}
	if err := makeKeys(b.dir, ""); err != nil {
		return nil, err
	}
	if b.keys, err = openKeys(b.dir); err != nil {
		return nil, err
	}
	b.files, b.m, err = rebuild(b.keys, version, index)
	return b, err
}

func rebuild(keys *keyring, version string, index uint32) (map[string][]byte, *release.Manifest, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		return nil, nil, err
	}
	kernel := make([]byte, 1<<20+123)
	rand.NewChaCha8([32]byte{1}).Read(kernel)
	from := release.Kernel{Source: "linux test", SHA256: release.Describe("", kernel).SHA256}
	return build(version, index, kernel, from, program, keys)
}

func TestMain(m *testing.M) {
	code := m.Run()
	if b, err := built(); err == nil {
		os.RemoveAll(filepath.Dir(b.dir))
	}
	os.Exit(code)
}

func theBuild(t *testing.T) *buildOf {
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *buildOf) write(t *testing.T) (dir, key string) {
	dir = t.TempDir()
	for name, content := range b.files {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir, filepath.Join(b.dir, "release.pub.pem")
}

func TestTheSameInputGivesTheSameBytes(t *testing.T) {
	b := theBuild(t)
	again, _, err := rebuild(b.keys, b.m.Version, b.m.RollbackIndex)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range slices.Sorted(maps.Keys(b.files)) {
		if !bytes.Equal(b.files[name], again[name]) {
			t.Errorf("%s differs between two builds", name)
		}
	}
}

// The bill of materials and the manifest name what the release is made of; the program knows its modules itself.
func TestEveryPartIsNamed(t *testing.T) {
	b := theBuild(t)
	info, ok := debug.ReadBuildInfo()
	if !ok || len(info.Deps) == 0 {
		t.Fatal("this program does not know its modules")
	}
	want := []string{b.m.Kernel.SHA256, b.m.Kernel.Source, stubInput.SHA256, `"pkg:golang/std@` + info.GoVersion}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		want = append(want, `"pkg:golang/`+m.Path+"@"+m.Version+`"`)
	}
	for _, part := range want {
		if !bytes.Contains(b.files[release.SBOMName], []byte(part)) {
			t.Errorf("the bill of materials does not name %s", part)
		}
	}
	if b.m.Kernel.SHA256 == "" || !bytes.Contains(b.files[release.ManifestName], []byte(b.m.Kernel.SHA256)) {
		t.Errorf("the manifest does not say which kernel: %+v", b.m.Kernel)
	}
}

func TestDevelopmentKeysAreLabelled(t *testing.T) {
	b := theBuild(t)
	if b.m.Keys != "development" {
		t.Errorf("the manifest calls the keys %q", b.m.Keys)
	}
	dir := filepath.Join(t.TempDir(), "keys")
	if err := makeKeys(dir, "General Hospital"); err != nil {
		t.Fatal(err)
	}
	if k, err := openKeys(dir); err != nil || k.development {
		t.Errorf("keys with a name are taken for development keys (%v)", err)
	}
}

func TestVerifyFindsEveryChange(t *testing.T) {
	b := theBuild(t)
	dir, key := b.write(t)
	if _, err := verify(dir, key, true); err != nil {
		t.Fatal(err)
	}
	bundle := filepath.Join(dir, release.BundleName)
	if _, err := verify(bundle, key, false); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "keys")
	if err := makeKeys(other, ""); err != nil {
		t.Fatal(err)
	}
	if _, err := verify(dir, filepath.Join(other, "release.pub.pem"), true); err == nil {
		t.Error("a release is good under another key")
	}
	r := rand.New(rand.NewPCG(1, 2))
	for name, content := range b.files {
		at := []int{0, len(content) / 2, len(content) - 1, r.IntN(len(content))}
		if testing.Short() {
			at = at[3:]
		}
		f, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range at {
			f.WriteAt([]byte{content[i] ^ 1<<r.IntN(8)}, int64(i))
			if _, err := verify(dir, key, true); err == nil {
				t.Errorf("a bit flipped in byte %d of %s is not found", i, name)
			}
			if name == release.BundleName {
				if _, err := verify(bundle, key, false); err == nil {
					t.Errorf("a bit flipped in byte %d of the bundle alone is not found", i)
				}
			}
			f.WriteAt([]byte{content[i]}, int64(i))
		}
		f.Close()
	}
	// Manifest and signature are small: each of their bytes.
	text, signature := b.files[release.ManifestName], b.files[release.SignatureName]
	public := b.keys.release.Public().(*ecdsa.PublicKey)
	for i := range len(text) + len(signature) {
		both := append(bytes.Clone(text), signature...)
		both[i] ^= 1 << r.IntN(8)
		if _, err := release.Open(both[:len(text)], both[len(text):], public); err == nil {
			t.Fatalf("a bit flipped in byte %d of manifest and signature is not found", i)
		}
	}
}

// What others think of our files: the tools that firmware vendors and administrators use.
func TestOtherToolsAgree(t *testing.T) {
	b := theBuild(t)
	dir, key := b.write(t)
	at := func(name string) string { return filepath.Join(dir, name) }
	program, err := disk.Program(b.files[release.SlotName])
	if err != nil {
		t.Fatal(err)
	}
	partition := make([]byte, disk.SlotBytes)
	copy(partition, b.files[release.SlotName])
	for name, content := range map[string][]byte{"slot.efi": program, "partition": partition} {
		if err := os.WriteFile(at(name), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ command, want string }{
		{"sbverify --cert " + filepath.Join(b.dir, "db.crt") + " " + at("slot.efi"), "Signature verification OK"},
		{"openssl dgst -sha256 -verify " + key + " -signature " + at(release.SignatureName) + " " + at(release.ManifestName), "Verified OK"},
		{"fsck.vfat -n -v " + at("partition"), "4 files"},
		{"sgdisk -v " + at(release.DiskName), "No problems found"},
	} {
		t.Run(strings.Fields(c.command)[0], func(t *testing.T) {
			args := strings.Fields(c.command)
			if _, err := exec.LookPath(args[0]); err != nil {
				t.Skipf("%s is not installed", args[0])
			}
			out, err := exec.Command(args[0], args[1:]...).CombinedOutput()
			if err != nil || !strings.Contains(string(out), c.want) {
				t.Errorf("%s: %v\n%s", c.command, err, out)
			}
		})
	}
}

func TestAForeignSignerIsNotTaken(t *testing.T) {
	b := theBuild(t)
	program, err := disk.Program(b.files[release.SlotName])
	if err != nil {
		t.Fatal(err)
	}
	c, err := efi.SignedBy(program)
	if err != nil || !c.Equal(b.keys.db.Certificate) {
		t.Fatalf("the slot is signed by %v (%v)", c, err)
	}
	for _, i := range []int{0x80, len(program) / 3, len(program) - 700} {
		changed := bytes.Clone(program)
		changed[i] ^= 0x10
		if _, err := efi.SignedBy(changed); err == nil {
			t.Errorf("a program changed in byte %d verifies", i)
		}
	}
}

// A token signs as a file does. SoftHSM is a token in software, through the same interface.
func TestKeysInAToken(t *testing.T) {
	module := "/usr/lib/softhsm/libsofthsm2.so"
	_, err := os.Stat(module)
	for _, tool := range []string{"softhsm2-util", "pkcs11-tool"} {
		if _, missing := exec.LookPath(tool); missing != nil || err != nil {
			t.Skip("softhsm2 and opensc are not installed")
		}
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "softhsm2.conf"), []byte("directories.tokendir = "+dir+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "softhsm2.conf"))
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte("12345678\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := theBuild(t)
	must := func(args ...string) {
		t.Helper()
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	must("softhsm2-util", "--init-token", "--free", "--label", "firm", "--pin", "12345678", "--so-pin", "87654321")
	keys := filepath.Join(dir, "keys")
	if err := os.CopyFS(keys, os.DirFS(b.dir)); err != nil {
		t.Fatal(err)
	}
	for i, role := range []string{"db", "release"} {
		must("softhsm2-util", "--import", filepath.Join(keys, role+".key"), "--token", "firm", "--label", role, "--id", fmt.Sprintf("%02x", i+1), "--pin", "12345678")
		uri := fmt.Sprintf("pkcs11:token=firm;id=%%%02x?", i+1) + "module-path=" + module + "&pin-source=file:" + filepath.Join(dir, "pin") + "\n"
		if err := os.WriteFile(filepath.Join(keys, role+".pkcs11"), []byte(uri), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(filepath.Join(keys, role+".key")); err != nil {
			t.Fatal(err)
		}
	}
	k, err := openKeys(keys)
	if err != nil {
		t.Fatal(err)
	}
	files, _, err := rebuild(k, b.m.Version, b.m.RollbackIndex)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(files[release.SlotName], b.files[release.SlotName]) {
		t.Error("the slot that the token signed is not the one that the key file signed")
	}
	if _, err := release.Open(files[release.ManifestName], files[release.SignatureName], b.keys.release.Public().(*ecdsa.PublicKey)); err != nil {
		t.Errorf("the manifest that the token signed: %v", err)
	}
}
