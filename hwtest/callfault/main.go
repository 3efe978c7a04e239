// Command callfault runs a program and has one of the system calls by which it changes a folder go wrong: it is killed there with
// SIGKILL, before the call or after it, or the call fails, with its effect or without. It follows all threads of the program, and counts
// their calls together, which strace does not. What the program is, it need not know: it runs as it is shipped.
package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/alecthomas/kong"
)

type command struct {
	In      string   `required:"" placeholder:"DIR" help:"Calls that change what is in this folder are counted."`
	Call    string   `placeholder:"CLASS" help:"Only calls of this class, as --list shows it; all when it is not given."`
	Nth     int      `help:"The fault is at this one of them; 0 is nowhere."`
	Fault   string   `default:"kill" enum:"kill,EIO,ENOSPC,EROFS" help:"What happens there: ${enum}."`
	Done    bool     `help:"The call has its effect first."`
	Hit     string   `placeholder:"FILE" help:"Write the class of the call into this file when the fault happens."`
	List    string   `placeholder:"FILE" help:"Append the class of each call to this file."`
	Program []string `arg:"" passthrough:"" help:"The program and its arguments."`
}

func main() {
	var c command
	kong.Parse(&c, kong.Name("callfault"), kong.Description("Run a program and have one of its calls that change a folder go wrong."))
	code, err := c.run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "callfault:", err)
		os.Exit(1)
	}
	os.Exit(code)
}

// run runs the program to its end and gives its exit status: 128 and the number of the signal if one has ended it.
func (c *command) run() (code int, err error) {
	if len(c.Program) > 0 && c.Program[0] == "--" {
		c.Program = c.Program[1:]
	}
	if len(c.Program) == 0 {
		return 0, errors.New("cannot run nothing: give a program")
	}
	dir, err := filepath.EvalSymlinks(c.In)
	if err == nil {
		dir, err = filepath.Abs(dir)
	}
	if err != nil {
		return 0, fmt.Errorf("cannot watch the folder: %w", err)
	}
	w := &watch{command: c, dir: dir}
	if c.List != "" {
		if w.list, err = os.OpenFile(c.List, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err != nil {
			return 0, fmt.Errorf("cannot list the calls: %w", err)
		}
		defer w.list.Close()
	}
	return w.trace()
}
