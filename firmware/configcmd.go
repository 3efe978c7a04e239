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
	var wrong []error
	for i := range cfg.Monitors { // what only an adapter knows to be wrong
		one := *cfg
		one.Monitors = cfg.Monitors[i : i+1]
		if _, err := openMonitors(&one, box, slog.New(slog.DiscardHandler)); err != nil {
			wrong = append(wrong, err)
		}
	}
	_, err = enrolment.ReadGrant(cfg.Network.Grant)
	missing := cfg.Network.Grant == "" || errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		wrong = append(wrong, fmt.Errorf("network.grant: %w", err))
	}
	if err := errors.Join(wrong...); err != nil {
		return fmt.Errorf("%s: %w", c.Config, err)
	}
	if missing {
		fmt.Println("note: the grant (network.grant) is not there yet; vitalgate run needs one (vitalgate request, vitalpeer box add)")
	}
	fmt.Printf("%s is right: box %s, %d monitors\n", c.Config, cfg.Box.ID, len(cfg.Monitors))
	return nil
}

type configDescribeCmd struct{}

func (configDescribeCmd) Run() error { return config.Describe(os.Stdout) }

type configExampleCmd struct{}

func (configExampleCmd) Run() error { return config.Example(os.Stdout) }
