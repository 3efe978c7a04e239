package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

type stickCmd struct {
	Prepare stickPrepareCmd `cmd:"" help:"Make a USB stick ready for a box that has no network."`
	Answer  stickAnswerCmd  `cmd:"" help:"Have the facility answer the request of a box on the stick, and put the configuration beside it."`
	Readers stickReadersCmd `cmd:"" help:"Put a set of readers on the stick, for boxes that have an owner."`
	Show    stickShowCmd    `cmd:"" help:"Say which boxes were at the stick, and how far each is."`
}

type stickPrepareCmd struct {
	Stick string `arg:"" type:"existingdir" help:"Where the stick is mounted."`
	Box   string `placeholder:"FACILITY/NAME" help:"The name that the next new box is to have; without it, boxes only write their labels."`
}

func (c stickPrepareCmd) Run() error {
	if c.Box != "" {
		if err := boxName(c.Box); err != nil {
			return err
		}
	}
	s := protocol.StickAt(c.Stick)
	if err := os.MkdirAll(string(s), 0o755); err != nil {
		return fmt.Errorf("cannot prepare the stick: %w", err)
	}
	if before, err := os.ReadFile(s.Next()); err == nil && c.Box != "" {
		say("Until now the next new box was to be %s.", strings.TrimSpace(string(before)))
	}
	if c.Box != "" {
		if err := os.WriteFile(s.Next(), []byte(c.Box+"\n"), 0o644); err != nil {
			return fmt.Errorf("cannot prepare the stick: %w", err)
		}
	}
	please("plug the stick into the box for half a minute, then bring it back (vitalprov stick show)")
	return nil
}

// stale are the reasons (package admission) for which another answer of the same box may do.
var stale = []string{"(not-asked)", "(expired)", "(other-question)", "(other-request)"}

type stickAnswerCmd struct {
	hubFlag
	binding
	Stick   string   `arg:"" type:"existingdir" help:"Where the stick is mounted."`
	Name    string   `arg:"" help:"Which box, by the name of its label (VG-…)."`
	Leaf    []string `placeholder:"NAME=tls://HOST:PORT" help:"Leaf nodes for the box, in place of those the facility knows."`
	OnTrust bool     `help:"Do not ask the box's TPM, which needs one more way to the box: let it in on the word of whoever carried the stick."`
}

func (c stickAnswerCmd) Run(ctx context.Context) error {
	if c.Hub == "" {
		return errors.New("cannot answer without the facility: give --hub DIR; elsewhere, vitalpeer box add REQUEST -o grant.json beside the request")
	}
	own := protocol.StickAt(c.Stick).Of(strings.ToUpper(c.Name))
	box, err := os.ReadFile(own.Box())
	if err != nil {
		return fmt.Errorf("cannot answer: there is no request of that box on the stick: %w", err)
	}
	config, err := c.binding.text(strings.TrimSpace(string(box)))
	if err != nil {
		return err
	}
	if err := plausible(config, own); err != nil { // before the facility is asked
		return err
	}
	granted, err := c.granted(own, strings.TrimSpace(string(box)))
	if err != nil {
		return err
	}
	if granted {
		say("The facility's grant is on the stick already; only the configuration is written anew.")
	} else if asked, err := c.grant(ctx, own); asked || err != nil {
		return err
	}
	if err := os.WriteFile(own.Config(), []byte(config), 0o644); err != nil {
		return fmt.Errorf("cannot write to the stick: %w", err)
	}
	please("plug the stick into box %s once more; result.txt then says what came of it", c.Name)
	return nil
}

// granted says whether the facility has let the box in before. It does so once; what comes after can be done again.
func (c stickAnswerCmd) granted(own protocol.StickBox, box string) (bool, error) {
	text, err := os.ReadFile(own.Grant())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot read the stick: %w", err)
	}
	var g struct {
		Box string `json:"box"`
	}
	if err := json.Unmarshal(text, &g); err != nil || g.Box != box {
		return false, fmt.Errorf("cannot use the grant that is on the stick: it is damaged, or for another box than %s; remove %s, and have the facility write it again", box, own.Grant())
	}
	return true, nil
}

// grant has the facility let the box in, or ask its TPM first.
func (c stickAnswerCmd) grant(ctx context.Context, own protocol.StickBox) (asked bool, err error) {
	args := []string{"box", "add", own.Request(), "-o", own.Grant()}
	if !c.OnTrust {
		if _, err := os.Stat(own.Answer()); errors.Is(err, fs.ErrNotExist) {
			return true, c.ask(ctx, own)
		}
		args = append(args, "--answer", own.Answer())
	}
	for _, l := range c.Leaf {
		args = append(args, "--leaf", l)
	}
	_, err = c.peer(ctx, args...)
	if err == nil || !slices.ContainsFunc(stale, func(reason string) bool { return strings.Contains(err.Error(), reason) }) {
		return false, err
	}
	say("The answer on the stick is to no open question; the box is asked again: %v", err)
	if err := errors.Join(os.Remove(own.Answer()), os.RemoveAll(own.Question())); err != nil {
		return false, fmt.Errorf("cannot ask again: %w", err)
	}
	return true, c.ask(ctx, own)
}

// ask puts the facility's question beside the request.
func (c stickAnswerCmd) ask(ctx context.Context, own protocol.StickBox) error {
	if _, err := os.Stat(own.Question()); err == nil {
		return fmt.Errorf("cannot answer: box %s has not answered what the facility asks; plug the stick into it, or use --on-trust%s", c.Name, lastSaid(own))
	}
	if _, err := c.peer(ctx, "box", "ask", own.Request(), "-o", own.Question()); err != nil {
		return fmt.Errorf("%w; a box whose TPM nobody vouches for can be let in --on-trust", err)
	}
	please("plug the stick into box %s for half a minute, so that its TPM answers; then give this command again", c.Name)
	return nil
}

// lastSaid is what the box wrote on the stick at its last visit.
func lastSaid(own protocol.StickBox) string {
	text, err := os.ReadFile(own.Result())
	if err != nil {
		return ""
	}
	return "; at its last visit the box said: " + strings.TrimSpace(string(text))
}

// next is what is to be done for a box, by what the stick has of it.
func next(own protocol.StickBox, result string) string {
	has := func(path string) bool { _, err := os.Stat(path); return err == nil }
	switch {
	case strings.Contains(result, protocol.StickTaken), strings.Contains(result, protocol.StickReaders):
		return "done: the box needs the stick no more"
	case has(own.Grant()) && has(own.Config()):
		return "next: plug the stick into the box, which takes its grant and its configuration"
	case has(own.Question()) && !has(own.Answer()):
		return "next: plug the stick into the box, whose TPM answers the facility"
	case has(own.Request()):
		return "next: vitalprov stick answer, at the facility's hub"
	}
	return "next: vitalprov stick prepare --box FACILITY/NAME, and plug the stick into the box once more"
}

type stickReadersCmd struct {
	Stick string `arg:"" type:"existingdir" help:"Where the stick is mounted."`
	Set   string `arg:"" type:"existingfile" help:"The set, as the facility signed it (vitalpeer readers rotate, or readers show)."`
}

func (c stickReadersCmd) Run() error {
	set, text, err := readReaders(c.Set)
	if err != nil {
		return err
	}
	s := protocol.StickAt(c.Stick)
	if err = os.MkdirAll(string(s), 0o755); err == nil {
		err = os.WriteFile(s.Readers(), text, 0o644)
	}
	if err != nil {
		return fmt.Errorf("cannot prepare the stick: %w", err)
	}
	please("plug the stick into each box of facility %s for half a minute: it seals for reader set %d from then on (vitalprov stick show)", set.Facility, set.Number)
	return nil
}

type stickShowCmd struct {
	Stick string `arg:"" type:"existingdir" help:"Where the stick is mounted."`
}

func (c stickShowCmd) Run() error {
	s := protocol.StickAt(c.Stick)
	all, err := os.ReadDir(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("this is no stick for boxes: vitalprov stick prepare makes one")
	}
	if err != nil {
		return fmt.Errorf("cannot read the stick: %w", err)
	}
	if set, _, err := readReaders(s.Readers()); err == nil {
		fmt.Printf("reader set %d of facility %s\n    next: plug the stick into each box of that facility, which takes it\n", set.Number, set.Facility)
	} else if _, missing := os.Lstat(s.Readers()); missing == nil {
		return err
	}
	if name, err := os.ReadFile(s.Next()); err == nil {
		fmt.Printf("%s\n    next: plug the stick into the box that is to have this name\n", strings.TrimSpace(string(name)))
	}
	boxes := 0
	for _, e := range all {
		if !e.IsDir() {
			continue
		}
		own := s.Of(e.Name())
		result, err := os.ReadFile(own.Result())
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot read the stick: %w", err)
		}
		label, err := os.ReadFile(own.Label())
		if err != nil && len(result) > 0 { // of an owned box, which keeps its label to itself
			label = []byte("(it has an owner)")
		} else if err != nil {
			continue
		}
		boxes++
		fmt.Printf("%s  %s\n    %s\n    %s\n", filepath.Base(string(own)), strings.TrimSpace(string(result)), strings.TrimSpace(string(label)), next(own, string(result)))
	}
	if boxes == 0 {
		fmt.Println("No box was at this stick yet.")
	}
	return nil
}
