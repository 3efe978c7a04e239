package commandline_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/commandline"
)

type program struct {
	Box struct {
		Add struct {
			Request string `arg:"" type:"existingfile" help:"The request."`
		} `cmd:"" help:"Add a box."`
	} `cmd:"" help:"Boxes."`
}

type ended int

// parse gives what is printed and, where the process would have ended, its exit status.
func parse(args ...string) (out string, status int, err error) {
	var b bytes.Buffer
	status = -1
	defer func() {
		if e, ok := recover().(ended); ok {
			status = int(e)
		}
		out = b.String()
	}()
	_, err = commandline.Parse(&program{}, args, kong.Name("vitalx"), kong.Writers(&b, &b), kong.Exit(func(n int) { panic(ended(n)) }))
	return out, status, err
}

func TestHelpIsAskedForInTwoWays(t *testing.T) {
	for command, usage := range map[string]string{"": "Usage: vitalx <command>", "box": "Usage: vitalx box <command>", "box add": "Usage: vitalx box add <request>"} {
		want, status, err := parse(append(strings.Fields(command), "--help")...)
		if err != nil || status != 0 || !strings.Contains(want, usage) {
			t.Errorf("%s --help: %d %v\n%s", command, status, err, want)
		}
		if got, status, err := parse(append([]string{"help"}, strings.Fields(command)...)...); err != nil || status != 0 || got != want {
			t.Errorf("help %s: %d %v\n%s", command, status, err, got)
		}
	}
}

// What is wrong is said in one line, which the program ends with; a page of help would hide it.
func TestAMistakeIsOneLine(t *testing.T) {
	for args, want := range map[string]string{
		"box add no-such-file": "vitalx box add --help shows",
		"box ad":               "vitalx box --help shows",
		"boxes":                "vitalx --help shows",
		"help boxes":           "vitalx --help shows",
		"":                     "vitalx --help shows",
	} {
		out, status, err := parse(strings.Fields(args)...)
		if err == nil || status != -1 || out != "" || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), "cannot ") || strings.Contains(err.Error(), "\n") {
			t.Errorf("%q: status %d, printed %q, %v; want %q", args, status, out, err, want)
		}
	}
}
