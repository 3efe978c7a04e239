// Command image builds the box's image: two slots, each one signed EFI program, on a disk with room for data; and the signed
// manifest, the update bundle and the list of parts that go with it. It needs no rights, mounts or other tools.
package main

import (
	"fmt"
	"os"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/commandline"
)

type program struct {
	Keys   keysCmd   `cmd:"" help:"Make a folder of keys."`
	Build  buildCmd  `cmd:"" help:"Build a release into a folder."`
	Verify verifyCmd `cmd:"" help:"Check every byte of a release, or of one update bundle."`
}

func main() {
	var p program
	k, err := commandline.Parse(&p, os.Args[1:], kong.Name("image"), kong.Description("Builds and checks the box's signed image."))
	if err == nil {
		err = k.Run()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "image:", err)
		os.Exit(1)
	}
}

type keysCmd struct {
	Dir  string `arg:"" help:"Folder to make."`
	Name string `help:"Name of who answers for the keys; without one they are development keys, and every image made with them says so."`
}

func (c keysCmd) Run() error {
	if err := makeKeys(c.Dir, c.Name); err != nil {
		return err
	}
	if c.Name == "" {
		fmt.Printf("%s: %s; boxes made with them are for trying out, not for patients.\n", c.Dir, developmentName)
		return nil
	}
	fmt.Printf("%s: keys of %s. Keep the .key files off line; whoever has them can make firmware that your boxes run.\n", c.Dir, c.Name)
	return nil
}

type verifyCmd struct {
	Path string `arg:"" help:"Folder of a release, or an update bundle."`
	Key  string `required:"" type:"existingfile" help:"Public release key (release.pub.pem)."`
}

func (c verifyCmd) Run() error {
	st, err := os.Stat(c.Path)
	if err != nil {
		return fmt.Errorf("cannot verify the release: %w", err)
	}
	m, err := verify(c.Path, c.Key, st.IsDir())
	if err != nil {
		return err
	}
	fmt.Printf("ok: release %s, rollback index %d, %s keys, %d files\n", m.Version, m.RollbackIndex, m.Keys, len(m.Files))
	return nil
}
