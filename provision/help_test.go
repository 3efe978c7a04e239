package main

import (
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

// Every command, flag and argument says what it is for.
func TestTheHelpIsComplete(t *testing.T) {
	k, err := kong.New(&cli{})
	if err != nil {
		t.Fatal(err)
	}
	seen := 0
	err = kong.Visit(k.Model, func(n kong.Visitable, next kong.Next) error {
		switch n := n.(type) {
		case *kong.Node:
			if n.Type == kong.CommandNode && !strings.HasSuffix(n.Help, ".") {
				t.Errorf("command %s: %q is no sentence", n.Path(), n.Help)
			}
			seen++
		case *kong.Value:
			if !strings.HasSuffix(n.Help, ".") && !strings.HasSuffix(n.Help, ")") {
				t.Errorf("argument %s: %q is no sentence", n.Name, n.Help)
			}
			seen++
		case *kong.Flag:
			if n.Help == "" {
				t.Errorf("flag --%s says nothing", n.Name)
			}
			seen++
		}
		return next(nil)
	})
	if err != nil || seen < 60 {
		t.Errorf("saw %d: %v", seen, err)
	}
}
