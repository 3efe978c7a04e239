package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/vitalgate/vitalgate/provision/protocol"
)

// hubFlag says where the facility is, if it is within reach: the peer's own program is asked, so that only one program decides what
// a peer does.
type hubFlag struct {
	Hub       string `placeholder:"DIR" env:"VITALPROV_HUB" help:"Data folder of the facility's hub, where it is on this machine; without it, files are exchanged."`
	Vitalpeer string `default:"vitalpeer" help:"The vitalpeer program."`
}

// peer runs a command of vitalpeer to its end.
func (h hubFlag) peer(ctx context.Context, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, h.Vitalpeer, append(args, "--data", h.Hub)...)
	out, err := cmd.Output()
	if err != nil {
		e := (*exec.ExitError)(nil)
		if !errors.As(err, &e) {
			return nil, fmt.Errorf("cannot run %s: %w; name the program with --vitalpeer", h.Vitalpeer, err)
		}
		said := bytes.TrimPrefix(bytes.TrimSpace(e.Stderr), []byte("vitalpeer: "))
		return nil, fmt.Errorf("the facility says: %s", cmp.Or(string(said), err.Error()))
	}
	return out, nil
}

// onTrust are the reasons (package admission) for which a box is let in without proof: nobody vouches for its TPM, or it has
// none. The registry then says so; any other reason is a lie of the box.
var onTrust = []string{"(no-tpm)", "(no-certificate)", "(unknown-maker)"}

// grant has the facility let the box in, by what its TPM proves.
func (h hubFlag) grant(ctx context.Context, b *box, request []byte, leaves []string) ([]byte, error) {
	dir, err := os.MkdirTemp("", "vitalprov-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	in, out := filepath.Join(dir, "request.json"), filepath.Join(dir, "grant.json")
	if err := os.WriteFile(in, request, 0o600); err != nil {
		return nil, err
	}
	args := []string{"box", "add", in, "-o", out}
	question, answer := filepath.Join(dir, "question.json"), filepath.Join(dir, "answer.json")
	_, err = h.peer(ctx, "box", "ask", in, "-o", question)
	switch {
	case err == nil:
		if err := b.answer(ctx, question, answer); err != nil {
			return nil, err
		}
		args = append(args, "--answer", answer)
	case slices.ContainsFunc(onTrust, func(reason string) bool { return strings.Contains(err.Error(), reason) }):
		say("The box asks to be let in on trust: no TPM proves here what it is. The registry will say so.")
	default:
		return nil, err
	}
	for _, l := range leaves {
		args = append(args, "--leaf", l)
	}
	if _, err := h.peer(ctx, args...); err != nil {
		return nil, err
	}
	return os.ReadFile(out)
}

// answer has the box answer the facility's question about its TPM, from file to file.
func (b *box) answer(ctx context.Context, question, out string) error {
	q, err := os.ReadFile(question)
	if err != nil {
		return fmt.Errorf("cannot read the question: %w", err)
	}
	var a []byte
	if err := b.call(ctx, "POST", protocol.PathChallenge, json.RawMessage(q), &a); err != nil {
		return err
	}
	return writeNew(out, a, 0o644)
}

// record is what vitalprov looks at in a line of vitalpeer tail.
type record struct {
	Box     string     `json:"box"`
	Index   uint64     `json:"index"`
	Kind    string     `json:"kind"`
	Monitor string     `json:"monitor"`
	Sealed  string     `json:"sealed"`
	Reason  string     `json:"reason"`
	Arrived *time.Time `json:"arrived"`
	Bundle  bundle     `json:"bundle"`
}

// size is how many records of a box the peer has. A peer that is not up yet is waited for; one that is not there, or knows no such box,
// is not.
func (h hubFlag) size(ctx context.Context, box string) (uint64, error) {
	waiting := false
	for {
		cmd := exec.CommandContext(ctx, h.Vitalpeer, "status", "--json", "--data", h.Hub)
		var said bytes.Buffer
		cmd.Stderr = &said
		out, err := cmd.Output() // an error too where the peer is not well
		var st struct {
			Running bool
			Boxes   []struct {
				Box     string
				Records uint64
			}
		}
		exit := (*exec.ExitError)(nil)
		switch bad := json.Unmarshal(out, &st); {
		case ctx.Err() != nil:
			return 0, context.Cause(ctx)
		case err != nil && !errors.As(err, &exit):
			return 0, fmt.Errorf("cannot run %s: %w", h.Vitalpeer, err)
		case bad != nil && strings.Contains(said.String(), "(no peer.toml)"):
			return 0, fmt.Errorf("cannot ask the peer: %s", bytes.TrimSpace(said.Bytes()))
		case bad == nil:
			for _, b := range st.Boxes {
				if b.Box == box {
					return b.Records, nil
				}
			}
			return 0, fmt.Errorf("cannot find box %q at the peer in %s: it is not registered there; vitalpeer box list --data %s shows all", box, h.Hub, h.Hub)
		}
		if !waiting {
			waiting = true
			say("The peer does not answer yet, it is asked again: %s", bytes.TrimSpace(said.Bytes()))
		}
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

// there gives the verified records of a box from one on that the peer has.
func (h hubFlag) there(ctx context.Context, box string, from uint64, each func(record)) error {
	out, err := h.peer(ctx, "tail", "--box", box, "--from", fmt.Sprint(from))
	if err != nil {
		return err
	}
	for line := range bytes.Lines(out) {
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return fmt.Errorf("cannot read a line of vitalpeer tail: %w", err)
		}
		each(r)
	}
	return nil
}

// tail gives the verified records of a box at the peer from one on as they come. A peer that is not up yet is waited for.
func (h hubFlag) tail(ctx context.Context, box string, from uint64, each func(record) (more bool)) error {
	waiting := false
	for {
		more, err := h.tailOnce(ctx, box, from, func(r record) bool {
			from = r.Index + 1
			return each(r)
		})
		if !more || ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !waiting && err != nil {
			waiting = true
			say("The peer does not answer yet, it is asked again: %v", err)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Second):
		}
	}
}

func (h hubFlag) tailOnce(ctx context.Context, box string, from uint64, each func(record) bool) (more bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	cmd := exec.CommandContext(ctx, h.Vitalpeer, "tail", "--follow", "--box", box, "--from", fmt.Sprint(from), "--data", h.Hub)
	cmd.WaitDelay = 2 * time.Second
	var said bytes.Buffer
	cmd.Stderr = &said
	out, err := cmd.StdoutPipe()
	if err != nil {
		return true, err
	}
	if err := cmd.Start(); err != nil {
		return true, fmt.Errorf("cannot run %s: %w", h.Vitalpeer, err)
	}
	in := bufio.NewReaderSize(out, 1<<20)
	for {
		line, err := in.ReadBytes('\n')
		if err != nil {
			break
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil {
			return true, fmt.Errorf("cannot read a line of vitalpeer tail: %w", err)
		}
		if !each(r) {
			cancel()
			cmd.Wait()
			return false, nil
		}
	}
	err = cmd.Wait()
	return true, fmt.Errorf("%w: %s", errors.Join(err, errors.New("vitalpeer tail has ended")), bytes.TrimSpace(said.Bytes()))
}
