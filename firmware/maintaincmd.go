package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vitalgate/vitalgate/adapters/serial"
	"github.com/vitalgate/vitalgate/firmware/lamp"
	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/hwtest"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/tpm"
)

// maintainCmd is the box as a whole where vitalgate is a program among others: the image's first process does the same.
type maintainCmd struct {
	Dir    string `default:"/var/lib/vitalgate" help:"The box's folder: label, configuration, grant, data; mode 0700."`
	Listen string `default:":8471" help:"Address of the provisioning link."`
	Find   bool   `default:"true" negatable:"" help:"Answer whoever looks for boxes on this machine's networks (vitalprov find): the name on the label, where the link is, and whether the box has an owner."`
	Label  bool   `help:"Print the text of the label (it holds the secret claim code) and end."`
}

func (c maintainCmd) Run(ctx context.Context) error {
	log := newLog(0)
	if c.Label {
		l, err := maintain.Label(c.Dir)
		if err == nil {
			fmt.Println(l)
		}
		return err
	}
	s, err := maintain.Open(maintain.Box{Dir: c.Dir, Listen: c.Listen, Find: c.Find, Log: log,
		Work: func(ctx context.Context, config string) error { return run(ctx, config, log) },
		Test: func(ctx context.Context, o protocol.TestOptions) ([]byte, error) {
			data := filepath.Join(c.Dir, "data")
			_, signed, err := testHardware(ctx, hwtest.Options{Factory: o.Factory, Dir: data, Lines: serial.Lines()}, tpm.Options{Source: "auto", Dir: filepath.Join(data, "tpm"), Log: log})
			return signed, err
		}})
	if err != nil {
		return err
	}
	fmt.Fprintf(os.Stderr, "box %s listens for vitalprov at %s\n", s.Label().Name(), s.Addr())
	if l := lamp.Find("/"); l != nil {
		lctx, dark := context.WithCancel(ctx)
		lit := make(chan struct{})
		go func() {
			defer close(lit)
			l.Run(lctx, s.State)
		}()
		defer func() { dark(); <-lit }()
	}
	return s.Run(ctx)
}
