package main

import (
	"fmt"
	"os"

	"github.com/vitalgate/vitalgate/firmware/config"
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
	fmt.Printf("%s is right: box %s, %d monitors\n", c.Config, cfg.Box.ID, len(cfg.Monitors))
	return nil
}

type configDescribeCmd struct{}

func (configDescribeCmd) Run() error { return config.Describe(os.Stdout) }

type configExampleCmd struct{}

func (configExampleCmd) Run() error { return config.Example(os.Stdout) }
