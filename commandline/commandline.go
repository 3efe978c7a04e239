// Package commandline reads the command line of each program in one way: "PROGRAM help COMMAND" is "PROGRAM COMMAND --help", and what
// cannot be understood is one line that says where help is, not a page of it.
package commandline

import (
	"errors"
	"fmt"

	"github.com/alecthomas/kong"
)

// Parse finds the command of program, with its flags, in args. Whoever asked for help has been shown it, and the process has ended.
func Parse(program any, args []string, options ...kong.Option) (*kong.Context, error) {
	p, err := kong.New(program, append(options, kong.ConfigureHelp(kong.HelpOptions{Compact: true}))...)
	if err != nil {
		return nil, err
	}
	if len(args) > 0 && args[0] == "help" {
		args = append(args[1:len(args):len(args)], "--help")
	}
	k, err := p.Parse(args)
	if err != nil {
		command := p.Model.Name
		if e := (*kong.ParseError)(nil); errors.As(err, &e) && e.Context.Selected() != nil {
			command = e.Context.Selected().FullPath()
		}
		return nil, fmt.Errorf("cannot understand the command: %w; %s --help shows how it is written", err, command)
	}
	return k, nil
}
