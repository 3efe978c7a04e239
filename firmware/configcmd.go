package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

type configCmd struct {
	Check    configCheckCmd    `cmd:"" help:"Say whether a file is right, and everything that is wrong with it."`
	Describe configDescribeCmd `cmd:"" help:"List every key with its type, default and meaning."`
	Example  configExampleCmd  `cmd:"" help:"Print a commented example file."`
}

type configCheckCmd struct {
	Config string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file."`
}

func (c configCheckCmd) Run() error {
	cfg, err := config.Load(c.Config)
	if err != nil {
		return err
	}
	box, err := record.ParseBoxID(cfg.Box.ID)
	if err != nil {
		return err
	}
	if _, err := openMonitors(cfg, box, slog.New(slog.DiscardHandler)); err != nil { // what only an adapter knows to be wrong
		return fmt.Errorf("%s: %w", c.Config, err)
	}
	switch _, err := enrolment.ReadGrant(cfg.Network.Grant); {
	case cfg.Network.Grant == "" || errors.Is(err, fs.ErrNotExist):
		fmt.Println("note: the grant (network.grant) is not there yet; vitalgate run needs one (vitalgate request, vitalpeer box add)")
	case err != nil:
		return fmt.Errorf("%s: network.grant: %w", c.Config, err)
	}
	fmt.Printf("%s is right: box %s, %d monitors\n", c.Config, cfg.Box.ID, len(cfg.Monitors))
	return nil
}

type configDescribeCmd struct{}

func (configDescribeCmd) Run() error { return config.Describe(os.Stdout) }

type configExampleCmd struct{}

func (configExampleCmd) Run() error { return config.Example(os.Stdout) }
