package main

import (
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
	Join        string   `placeholder:"INVITATION" help:"Join the facility that this invitation is from, as a ward peer." type:"existingfile"`
	ListenBoxes string   `default:"127.0.0.1:4222" help:"Where boxes connect, host:port."`
	ListenPeers string   `default:"127.0.0.1:7422" help:"Where ward peers connect, host:port; not with --join."`
	Page        string   `default:"127.0.0.1:8080" help:"Address of the page. It shows patient data: keep it on a loopback address."`
	Host        []string `help:"Further host names or addresses under which others reach this peer; not with --join."`
}

func (c *initCmd) Run() error {
	var conf facility.Config
	conf.Facility, conf.Name = c.Facility, c.Name
	conf.Boxes.Listen, conf.Page.Listen, conf.Boxes.StreamMiB = c.ListenBoxes, c.Page, 1024
	if c.Join != "" {
		made, err := facility.Join(c.dir(), c.Join, conf)
		if err != nil {
			return err
		}
		fmt.Printf("Ward peer %s of facility %s is ready in %s.\n", made.Name, made.Facility, c.Data)
		fmt.Printf("Remove the invitation now, it holds this peer's keys: rm %s\n", c.Join)
		fmt.Printf("Run it: vitalpeer run --data %s\n", c.Data)
		return nil
	}
	if c.Facility == "" || c.Name == "" {
		return errors.New("cannot make a hub without names: give --facility and --name (or --join INVITATION for a ward peer)")
	}
	conf.Peers.Listen = c.ListenPeers
	if err := facility.Init(c.dir(), conf, c.Host); err != nil {
		return err
	}
	fmt.Printf("Hub %s of the new facility %s is ready in %s.\n", c.Name, c.Facility, c.Data)
	fmt.Printf("Keep a copy of %s in a safe place: it is the facility's authority and the key that opens its records.\n", facility.Dir(c.Data).CAKey()+" and "+facility.Dir(c.Data).ReaderKey())
	fmt.Printf("Run it: vitalpeer run --data %s\n", c.Data)
	return nil
}

type inviteCmd struct {
	data
	Name   string   `arg:"" help:"Name of the ward peer, unique in the facility."`
	Out    string   `short:"o" placeholder:"FILE" help:"Where to write the invitation (default NAME.invitation.json)."`
	Boxes  string   `placeholder:"HOST:PORT" help:"Where boxes will reach the ward peer; enrolled boxes are told."`
	Host   []string `help:"Further host names or addresses under which boxes reach it."`
	Reader bool     `help:"Hand on the reader key too, so that this peer can open records."`
}

func (c *inviteCmd) Run() error {
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
	inv, err := facility.Invite(c.dir(), conf, c.Name, c.Boxes, c.Host, c.Reader)
	if err != nil {
		return err
	}
	if err := inv.Write(c.Out); err != nil {
		return errors.Join(err, c.dir().Registry().RemovePeer(c.Name))
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
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, p := range s.Peers {
		fmt.Fprintf(w, "%s\tinvited %s\tboxes %s\n", p.Name, p.Invited.Format(time.DateOnly), orDash(p.Boxes))
	}
	return errors.Join(w.Flush(), err)
}

type peerRemoveCmd struct {
	data
	Name string `arg:""`
}

func (c *peerRemoveCmd) Run() error { return c.dir().Registry().RemovePeer(c.Name) }

type operatorCmd struct {
	Add    operatorAddCmd    `cmd:"" help:"Make credentials with which the nats program sees streams and consumers, and no record."`
	Remove operatorRemoveCmd `cmd:"" help:"Take them back."`
}

type operatorAddCmd struct {
	data
	Name string `arg:"" help:"Of the operator: 1 to 32 of a-z, 0-9 and -."`
	Out  string `short:"o" required:"" placeholder:"DIR" help:"A new folder for the credentials."`
}

func (c *operatorAddCmd) Run() error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	if err := facility.AddOperator(c.dir(), conf, c.Name, c.Out); err != nil {
		return err
	}
	fmt.Printf("Try: nats $(cat %s/flags) stream list\n", c.Out)
	return nil
}

type operatorRemoveCmd struct {
	data
	Name string `arg:""`
}

func (c *operatorRemoveCmd) Run() error { return c.dir().Registry().RemoveOperator(c.Name) }

type boxCmd struct {
	Add          boxAddCmd          `cmd:"" help:"Enrol a box by its request: register it here and write its grant."`
	Import       boxImportCmd       `cmd:"" help:"Take in a registration that another peer made."`
	Trial        boxTrialCmd        `cmd:"" help:"Register a box whose keys are files, to try with the nats program what a box may do."`
	List         boxListCmd         `cmd:"" help:"List the registered boxes."`
	Revoke       boxRevokeCmd       `cmd:"" help:"Cut a box off for good."`
	Registration boxRegistrationCmd `cmd:"" help:"Print a box's registration, for other peers to import."`
}

type boxAddCmd struct {
	data
	Request string            `arg:"" type:"existingfile" help:"The box's request, such as gw1.request.json."`
	Out     string            `short:"o" placeholder:"FILE" help:"Where to write the grant (default NAME.grant.json)."`
	Kinds   []record.Kind     `help:"Kinds of records it may write (default all: vitals, waveform, alarm, adt, other, raw)."`
	Leaf    map[string]string `placeholder:"NAME=tls://HOST:PORT" help:"Leaf nodes for the box in place of the known peers; names in alphabetical order are the order of preference."`
}

func (c *boxAddCmd) Run() error {
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
	var leaves []enrolment.Leaf
	for _, name := range sortedKeys(c.Leaf) {
		leaves = append(leaves, enrolment.Leaf{Name: name, URL: c.Leaf[name]})
	}
	r, g, err := facility.Enrol(c.dir(), conf, q, c.Kinds, leaves)
	if err != nil {
		return err
	}
	if _, err := os.Stat(c.Out); err == nil {
		return fmt.Errorf("cannot write %s: it exists; remove it or name another with -o", c.Out)
	}
	if err := c.dir().Registry().Put(r); err != nil {
		return err
	}
	if err := enrolment.Write(c.Out, g); err != nil {
		return err
	}
	fmt.Printf("Box %s is registered; the protection of its key counts as %q. Its grant is in %s.\n", r.Box, r.Protection(), c.Out)
	return nil
}

type boxImportCmd struct {
	data
	Registration string `arg:"" type:"existingfile" help:"A file that vitalpeer box registration printed at another peer."`
}

func (c *boxImportCmd) Run() error {
	if _, err := c.dir().Load(); err != nil {
		return err
	}
	r, err := registry.ReadRegistration(c.Registration)
	if err != nil {
		return err
	}
	if err := c.dir().Registry().Put(r); err != nil {
		return err
	}
	fmt.Printf("Box %s is registered; the protection of its key counts as %q.\n", r.Box, r.Protection())
	return nil
}

type boxTrialCmd struct {
	data
	Box string `arg:"" help:"facility/name, of no real box."`
	Out string `short:"o" required:"" placeholder:"DIR" help:"A new folder for the credentials."`
}

func (c *boxTrialCmd) Run() error {
	conf, err := c.dir().Load()
	if err != nil {
		return err
	}
	id, err := record.ParseBoxID(c.Box)
	if err != nil {
		return err
	}
	if _, err := facility.AddTrial(c.dir(), conf, id, c.Out); err != nil {
		return err
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
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, r := range s.Boxes {
		state := "in force"
		if r.Revoked != nil {
			state = fmt.Sprintf("revoked %s at record %d: %s", r.Revoked.At.Format(time.DateOnly), *r.Until, r.Revoked.Reason)
		}
		fmt.Fprintf(w, "%s\t%s\tregistered %s\t%v\t%s\n", r.Box, r.Protection(), r.Registered.Format(time.DateOnly), r.Kinds, state)
	}
	return errors.Join(w.Flush(), err)
}

type boxRevokeCmd struct {
	data
	Box    string  `arg:"" help:"facility/name"`
	Reason string  `default:"revoked by an administrator" help:"Why; it stands in the registry."`
	Last   *uint64 `help:"Index of the last record that is still believed (default the last one stored here)."`
}

func (c *boxRevokeCmd) Run() error {
	r, err := find(c.dir(), c.Box)
	if err != nil {
		return err
	}
	if r.Revoked != nil {
		return fmt.Errorf("cannot revoke box %s: it was revoked on %s", r.Box, r.Revoked.At.Format(time.DateTime))
	}
	var until uint64
	if c.Last != nil {
		until = *c.Last + 1
	} else {
		src, err := openSource(c.dir())
		if err != nil {
			return err
		}
		defer src.Close()
		if until, err = src.Size(r.ID()); err != nil {
			return err
		}
	}
	if r.Until == nil || until < *r.Until {
		r.Until = &until
	}
	r.Revoked = &registry.Revocation{At: time.Now().UTC().Truncate(time.Second), Reason: c.Reason}
	if err := c.dir().Registry().Put(r); err != nil {
		return err
	}
	fmt.Printf("Box %s is revoked: cut off here within a second, and nothing from record %d on is accepted.\n", r.Box, *r.Until)
	fmt.Printf("Tell the other peers: vitalpeer box registration %s --data %s >FILE; there: vitalpeer box import FILE --data DIR\n", r.Box, c.Data)
	return nil
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
	if r := s.Box(id); r != nil {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("cannot find box %s: it is not registered here; vitalpeer box list --data %s shows all", id, d)
}
