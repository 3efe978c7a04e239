package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vitalgate/vitalgate/peer/facility"
	"github.com/vitalgate/vitalgate/peer/registry"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

type initCmd struct {
	data
	Facility    string   `placeholder:"F1" help:"Name of the facility: 1 to 32 of a-z, 0-9 and -."`
	Name        string   `placeholder:"HUB" help:"Name of this peer, unique in the facility."`
	Join        string   `placeholder:"INVITATION" help:"Join the facility that this invitation is from, as a ward peer or, with --listen-peers, as a further hub." type:"existingfile"`
	ListenBoxes string   `placeholder:"HOST:PORT" help:"Where boxes connect (default 127.0.0.1:4222; with --join where the invitation says)."`
	ListenPeers string   `placeholder:"HOST:PORT" help:"Where ward peers connect (default 127.0.0.1:7422; with --join none)."`
	Page        string   `default:"127.0.0.1:8080" help:"Address of the page. It shows patient data: keep it on a loopback address."`
	Host        []string `help:"Further host names or addresses under which others reach this peer; not with --join."`
	Genesis     string   `placeholder:"FILE" type:"existingfile" help:"Begin with a registry that several administrators decide: its signed genesis (vitalpeer registry init). Without it, one administrator decides alone, whose key is put into the data folder."`
}

func (c *initCmd) Run() error {
	var conf facility.Config
	conf.Facility, conf.Name = c.Facility, c.Name
	conf.Boxes.Listen, conf.Page.Listen, conf.Boxes.StreamMiB = c.ListenBoxes, c.Page, 1024
	conf.Peers.Listen = c.ListenPeers
	if c.Join != "" {
		made, err := facility.Join(c.dir(), c.Join, conf)
		if err != nil {
			return err
		}
		fmt.Printf("Peer %s of facility %s is ready in %s. Boxes connect to %s.\n", made.Name, made.Facility, c.Data, made.Boxes.Listen)
		if err := os.Remove(c.Join); err != nil { // a second peer with the same keys and this one would throw each other out
			fmt.Printf("Remove the invitation now, it holds this peer's keys: rm %s\n", c.Join)
		} else {
			fmt.Printf("The invitation %s is used up and removed: it held this peer's keys.\n", c.Join)
		}
		fmt.Printf("Run it: vitalpeer run --data %s\n", c.Data)
		return nil
	}
	if c.Facility == "" || c.Name == "" {
		return errors.New("cannot make a hub without names: give --facility and --name (or --join INVITATION for a ward peer)")
	}
	conf.Boxes.Listen = cmp.Or(c.ListenBoxes, facility.LoopbackBoxes)
	conf.Peers.Listen = cmp.Or(c.ListenPeers, "127.0.0.1:7422")
	var genesis []byte
	if c.Genesis != "" {
		var err error
		if genesis, err = os.ReadFile(c.Genesis); err != nil {
			return fmt.Errorf("cannot read the genesis: %w", err)
		}
	}
	if err := facility.InitWith(c.dir(), conf, c.Host, genesis); err != nil {
		return err
	}
	fmt.Printf("Hub %s of the new facility %s is ready in %s.\n", c.Name, c.Facility, c.Data)
	fmt.Printf("Keep a copy of %s in a safe place: it is the facility's authority and the key that opens its records.\n", facility.Dir(c.Data).CAKey()+" and "+facility.Dir(c.Data).ReaderKey())
	if genesis == nil {
		fmt.Printf("%s is the key of the administrator who decides who may write and read here: whoever has it lets boxes in. Keep a copy of it too.\n", facility.Dir(c.Data).AdministratorKey())
	}
	fmt.Printf("Run it: vitalpeer run --data %s\n", c.Data)
	return nil
}

type inviteCmd struct {
	deciding
	Name   string   `arg:"" help:"Name of the ward peer, unique in the facility."`
	Out    string   `short:"o" placeholder:"FILE" help:"Where to write the invitation (default NAME.invitation.json)."`
	Boxes  string   `placeholder:"HOST:PORT" help:"Where boxes will reach the ward peer; enrolled boxes are told."`
	Host   []string `help:"Further host names or addresses under which boxes reach it."`
	Reader bool     `help:"Hand on the reader key too, so that this peer can open records."`
}

func (c *inviteCmd) Run(ctx context.Context) error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	if c.Out == "" {
		c.Out = c.Name + ".invitation.json"
	}
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("cannot write %s: it exists; remove it or name another with -o", c.Out)
	}
	inv, d, err := facility.Invite(c.dir(), conf, c.Name, c.Boxes, c.Host, c.Reader)
	if err != nil {
		return err
	}
	if err := c.decide(ctx, d); err != nil {
		return err
	}
	if err := inv.Write(c.Out); err != nil {
		return errors.Join(err, c.decide(ctx, &registry.RemovePeer{Name: c.Name}))
	}
	fmt.Printf("Invitation for %s is in %s. It holds that peer's keys: carry it like a key.\n", c.Name, c.Out)
	fmt.Printf("There: vitalpeer init --join %s --data DIR\n", c.Out)
	return nil
}

type peerCmd struct {
	List   peerListCmd   `cmd:"" help:"List the invited peers."`
	Remove peerRemoveCmd `cmd:"" help:"Take back an invitation; a running hub cuts the peer off."`
}

type peerListCmd struct{ data }

func (c *peerListCmd) Run() error {
	s, err := c.dir().Registry().Load()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, p := range s.Peers {
		fmt.Fprintf(w, "%s\tinvited %s\tboxes %s\n", p.Name, p.Invited.Format(time.DateOnly), orDash(p.Boxes))
	}
	return w.Flush()
}

type peerRemoveCmd struct {
	deciding
	Name string `arg:""`
}

func (c *peerRemoveCmd) Run(ctx context.Context) error {
	return c.decide(ctx, &registry.RemovePeer{Name: c.Name})
}

type operatorCmd struct {
	Add    operatorAddCmd    `cmd:"" help:"Make credentials with which the nats program sees streams and consumers, and no record."`
	Remove operatorRemoveCmd `cmd:"" help:"Take them back."`
}

type operatorAddCmd struct {
	deciding
	Name string `arg:"" help:"Of the operator: 1 to 32 of a-z, 0-9 and -."`
	Out  string `short:"o" required:"" placeholder:"DIR" help:"A new folder for the credentials."`
}

func (c *operatorAddCmd) Run(ctx context.Context) error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	d, err := facility.AddOperator(c.dir(), conf, c.Name, c.Out)
	if err != nil {
		return err
	}
	if err := c.decide(ctx, d); err != nil {
		return errors.Join(err, os.RemoveAll(c.Out))
	}
	fmt.Printf("Try: nats $(cat %s/flags) stream list\n", c.Out)
	return nil
}

type operatorRemoveCmd struct {
	deciding
	Name string `arg:""`
}

func (c *operatorRemoveCmd) Run(ctx context.Context) error {
	return c.decide(ctx, &registry.RemoveOperator{Name: c.Name})
}

type boxCmd struct {
	Ask          boxAskCmd          `cmd:"" help:"Ask a box, by its request, to prove by its TPM what holds its keys."`
	Add          boxAddCmd          `cmd:"" help:"Enrol a box by its request: register it and write its grant."`
	Trial        boxTrialCmd        `cmd:"" help:"Register a box whose keys are files, to try with the nats program what a box may do."`
	List         boxListCmd         `cmd:"" help:"List the registered boxes."`
	Grant        boxGrantCmd        `cmd:"" help:"Say anew what a box may write, from a record on."`
	Suspend      boxSuspendCmd      `cmd:"" help:"Stop a box until it is resumed. One administrator may do it alone."`
	Resume       boxResumeCmd       `cmd:"" help:"Let a suspended box go on."`
	Rekey        boxRekeyCmd        `cmd:"" help:"Give a box new keys, as after the change of its chip; its log goes on."`
	Revoke       boxRevokeCmd       `cmd:"" help:"Cut a box off for good."`
	Decommission boxDecommissionCmd `cmd:"" help:"End a box in good order."`
	Registration boxRegistrationCmd `cmd:"" help:"Print what the registry says of a box."`
	Report       boxReportCmd       `cmd:"" help:"Check that a report of the hardware test is that of a registered box, and show it."`
}

type boxAddCmd struct {
	deciding
	proven
	Request  string        `arg:"" type:"existingfile" help:"The box's request, such as gw1.request.json."`
	Out      string        `short:"o" placeholder:"FILE" help:"Where to write the grant (default NAME.grant.json)."`
	Kinds    []record.Kind `help:"Kinds of records it may write (default all: vitals, waveform, alarm, adt, other, raw)."`
	Monitors []string      `help:"Monitors it may speak for (default all). Only peers that can open records hold it to them."`
	leading
}

// leading is where a grant leads a box.
type leading struct {
	Leaf map[string]string `placeholder:"NAME=tls://HOST:PORT" help:"Leaf nodes for the box in place of the known peers; names in alphabetical order are the order of preference."`
}

func (l leading) leaves() (all []enrolment.Leaf) {
	for _, name := range sortedKeys(l.Leaf) {
		all = append(all, enrolment.Leaf{Name: name, URL: l.Leaf[name]})
	}
	return all
}

func (c *boxAddCmd) Run(ctx context.Context) error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	q, err := enrolment.ReadRequest(c.Request)
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, name, _ := strings.Cut(q.Box, "/")
		c.Out = name + ".grant.json"
	}
	r, g, err := facility.Enrol(c.dir(), conf, q, c.Kinds, c.leaves())
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("cannot write %s: it exists; remove it or name another with -o", c.Out)
	}
	r.Monitors = c.Monitors
	if r.Attested, r.Chip, err = c.attested(c.dir(), q); err != nil {
		return err
	}
	protection := (&registry.Registration{Claim: r.Claim, Attested: r.Attested}).Protection()
	before, err := registered(c.dir(), r)
	if err != nil {
		return err
	}
	if before != nil && c.ProposeTo == "" { // decided already: whoever asks again has lost the grant, or never came to use it
		if len(c.Kinds) > 0 || len(c.Monitors) > 0 {
			return fmt.Errorf("cannot change what box %s may write by enrolling it again: it is registered with these keys; use vitalpeer box grant", r.Box)
		}
		protection = before.Protection()
		fmt.Printf("Box %s is registered with these keys since %s; only its grant is written anew.\n", r.Box, before.Registered.Format(time.DateTime))
	} else if err := c.decide(ctx, r); err != nil {
		return err
	}
	if err := errors.Join(enrolment.Write(c.Out, g), c.spent(c.dir(), q.Box)); err != nil {
		return err
	}
	fmt.Printf("The protection of the key of box %s counts as %q. Its grant is in %s.\n", r.Box, protection, c.Out)
	return nil
}

// registered is the box in force with the very keys of the decision; nil where there is none.
func registered(d facility.Dir, e *registry.Enrol) (*registry.Registration, error) {
	id, err := record.ParseBoxID(e.Box)
	if err != nil {
		return nil, err
	}
	s, err := d.Registry().Load()
	if err != nil {
		return nil, err
	}
	r := s.Box(id)
	if r == nil || r.Revoked != nil || r.DataKey != e.DataKey || r.TLSKey != e.TLSKey || r.NKey != e.NKey {
		return nil, nil
	}
	return r, nil
}

type boxTrialCmd struct {
	deciding
	Box string `arg:"" help:"facility/name, of no real box."`
	Out string `short:"o" required:"" placeholder:"DIR" help:"A new folder for the credentials."`
}

func (c *boxTrialCmd) Run(ctx context.Context) error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	id, err := record.ParseBoxID(c.Box)
	if err != nil {
		return err
	}
	d, err := facility.AddTrial(c.dir(), conf, id, c.Out)
	if err != nil {
		return err
	}
	if err := c.decide(ctx, d); err != nil {
		return errors.Join(err, os.RemoveAll(c.Out))
	}
	fmt.Printf("Try: nats $(cat %s/flags) sub '>'\n", c.Out)
	fmt.Printf("When done: vitalpeer box revoke %s --last 0 --data %s\n", c.Box, c.Data)
	return nil
}

type boxListCmd struct{ data }

func (c *boxListCmd) Run() error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	s, err := c.dir().Registry().Load()
	if err != nil {
		return err
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range s.Boxes {
		fmt.Fprintf(w, "%s\t%s\tregistered %s\t%v\t%s\n", r.Box, r.Protection(), r.Registered.Format(time.DateOnly), r.Kinds, cmp.Or(stopped(r), "in force"))
	}
	return w.Flush()
}

// stopped says since when and why a box may write no more; "" where it may.
func stopped(r *registry.Registration) string {
	switch {
	case r.Revoked != nil && r.Revoked.Decommissioned:
		return fmt.Sprintf("decommissioned %s at record %d", r.Revoked.At.Format(time.DateOnly), *r.Until)
	case r.Revoked != nil:
		return fmt.Sprintf("revoked %s at record %d: %s", r.Revoked.At.Format(time.DateOnly), *r.Until, r.Revoked.Reason)
	case r.Suspended != nil:
		return fmt.Sprintf("suspended %s: %s", r.Suspended.At.Format(time.DateOnly), r.Suspended.Reason)
	}
	return ""
}

type boxGrantCmd struct {
	deciding
	Box      string        `arg:"" help:"facility/name"`
	Kinds    []record.Kind `help:"Kinds of records it may write (default all)."`
	Monitors []string      `help:"Monitors it may speak for (default all)."`
	From     *uint64       `help:"Index of the first record that this is for (default the next one)."`
	Until    *uint64       `help:"Index of the first record after it (default: no end)."`
}

func (c *boxGrantCmd) Run(ctx context.Context) error {
	from, err := c.index(c.Box, c.From)
	if err != nil {
		return err
	}
	if len(c.Kinds) == 0 {
		c.Kinds = registry.AllKinds
	}
	return c.decide(ctx, &registry.Grant{Box: c.Box, Kinds: c.Kinds, Monitors: c.Monitors, From: from, Until: c.Until})
}

type boxSuspendCmd struct {
	deciding
	Box    string `arg:"" help:"facility/name"`
	Reason string `default:"suspended by an administrator" help:"Why; it stands in the registry."`
}

func (c *boxSuspendCmd) Run(ctx context.Context) error {
	return c.decide(ctx, &registry.Suspend{Box: c.Box, Reason: c.Reason})
}

type boxResumeCmd struct {
	deciding
	Box string `arg:"" help:"facility/name"`
}

func (c *boxResumeCmd) Run(ctx context.Context) error {
	return c.decide(ctx, &registry.Resume{Box: c.Box})
}

type boxRekeyCmd struct {
	deciding
	proven
	leading
	Request string  `arg:"" type:"existingfile" help:"A new request of the box, made with its new keys."`
	Out     string  `short:"o" placeholder:"FILE" help:"Where to write the new grant (default NAME.grant.json)."`
	From    *uint64 `help:"Index of the first record under the new keys (default the next one)."`
}

func (c *boxRekeyCmd) Run(ctx context.Context) error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	q, err := enrolment.ReadRequest(c.Request)
	if err != nil {
		return err
	}
	if c.Out == "" {
		_, name, _ := strings.Cut(q.Box, "/")
		c.Out = name + ".grant.json"
	}
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("cannot write %s: it exists; remove it or name another with -o", c.Out)
	}
	e, g, err := facility.Enrol(c.dir(), conf, q, nil, c.leaves())
	if err != nil {
		return err
	}
	from, err := c.index(q.Box, c.From)
	if err != nil {
		return err
	}
	if e.Attested, e.Chip, err = c.attested(c.dir(), q); err != nil {
		return err
	}
	if err := c.decide(ctx, &registry.Rekey{Box: e.Box, DataKey: e.DataKey, TLSKey: e.TLSKey, NKey: e.NKey, Claim: e.Claim, Software: e.Software, Chip: e.Chip, Attested: e.Attested, From: from}); err != nil {
		return err
	}
	return errors.Join(enrolment.Write(c.Out, g), c.spent(c.dir(), q.Box))
}

type boxRevokeCmd struct {
	deciding
	Box    string  `arg:"" help:"facility/name"`
	Reason string  `default:"revoked by an administrator" help:"Why; it stands in the registry."`
	Last   *uint64 `help:"Index of the last record that is still believed (default the last one stored here)."`
}

func (c *boxRevokeCmd) Run(ctx context.Context) error {
	until, err := c.index(c.Box, after(c.Last))
	if err != nil {
		return err
	}
	return c.decide(ctx, &registry.Revoke{Box: c.Box, Until: until, Reason: c.Reason})
}

type boxDecommissionCmd struct {
	deciding
	Box  string  `arg:"" help:"facility/name"`
	Last *uint64 `help:"Index of its last record (default the last one stored here)."`
}

func (c *boxDecommissionCmd) Run(ctx context.Context) error {
	until, err := c.index(c.Box, after(c.Last))
	if err != nil {
		return err
	}
	return c.decide(ctx, &registry.Decommission{Box: c.Box, Until: until})
}

// after is the index after the last one that a person named.
func after(last *uint64) *uint64 {
	if last == nil {
		return nil
	}
	next := *last + 1
	return &next
}

// index is the index that a person named, or the one after the last record that is stored here.
func (c *deciding) index(box string, named *uint64) (uint64, error) {
	r, err := find(c.dir(), box)
	if err != nil || named != nil {
		if err == nil {
			return *named, nil
		}
		return 0, err
	}
	src, err := openSource(c.dir())
	if err != nil {
		return 0, err
	}
	defer src.Close()
	return src.Size(r.ID())
}

type boxRegistrationCmd struct {
	data
	Box string `arg:"" help:"facility/name"`
}

func (c *boxRegistrationCmd) Run() error {
	r, err := find(c.dir(), c.Box)
	if err != nil {
		return err
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(r)
}

// find is the registration of a box that a person named.
func find(d facility.Dir, box string) (*registry.Registration, error) {
	if _, err := d.Load(); err != nil {
		return nil, err
	}
	id, err := record.ParseBoxID(box)
	if err != nil {
		return nil, err
	}
	s, err := d.Registry().Load()
	if err != nil {
		return nil, err
	}
	if r := s.Box(id); r != nil {
		return r, nil
	}
	return nil, fmt.Errorf("cannot find box %s: it is not registered here; vitalpeer box list --data %s shows all", id, d)
}
