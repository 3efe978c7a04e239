// Package maintain is the box's end of the provisioning link: it lets the field tool (vitalprov) in, and nobody else.
//
// A box is nobody's or somebody's. Nobody's box does nothing but answer here, and whoever knows the claim code of its label may
// give it a grant and a configuration. From then on it is its facility's: it reads monitors, keeps, signs and publishes, and
// answers only tools with a certificate of that facility's authority. A reset wipes it and makes it nobody's again.
//
// Which of the two it is stands in the folder: a box with a configuration is owned, even if what stands there cannot be used any
// more. So damage opens no box. docs/adr/0030 has the reasons.
package maintain

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/vitalgate/vitalgate/firmware/config"
	"github.com/vitalgate/vitalgate/firmware/mdns"
	"github.com/vitalgate/vitalgate/provision/protocol"
)

// Box is what the room needs of the box around it. An operation that is nil is one that this system does by itself or not at all;
// the tool is told which there are.
type Box struct {
	Dir    string // mode 0700: label, configuration, grant, data
	Listen string // host:port of the provisioning link

	// Work is the line from monitor to network (vitalgate run) with the configuration at the path. It is called when the box is
	// owned, stopped by its context for operations that need the box for themselves, and called again when it ends.
	Work func(ctx context.Context, config string) error
	// Test is the hardware test; its report is signed.
	Test func(ctx context.Context, o protocol.TestOptions) ([]byte, error)
	// Update takes a bundle and tells its progress. When it returns nil the box may restart at any moment.
	Update func(ctx context.Context, bundle io.Reader, say func(string)) error
	// Network changes settings of network interfaces.
	Network   Network
	TrialTime time.Duration // how long new network settings are tried; 0: a minute
	// BodyTime is how long a tool may take to send the body of a request; 0: 30 seconds. Bundles have longer.
	BodyTime time.Duration
	// Wipe makes what this room does not know of the box new: the chip, the encrypted disk. It is called after the folder was
	// wiped; it may restart the box.
	Wipe func(ctx context.Context) error
	// Find has the box answer whoever looks for boxes on its wires (package mdns).
	Find bool
	// System are facts of the image: slot, rollback index.
	System func() map[string]string

	Log *slog.Logger
}

// Network is how settings of the network are changed. Apply must not outlive a restart of the box, Keep must.
type Network interface {
	Settings() (protocol.Network, error)
	// On are the settings in force on an interface. Without a method there are none, and applying those takes everything off it.
	On(name string) protocol.Network
	Apply(ctx context.Context, n protocol.Network) error
	Keep(n protocol.Network) error
}

// Server is the open link.
type Server struct {
	box    Box
	folder folder
	lis    net.Listener
	tries  *tries
	work   *work
	trial  trial

	unlock func() // of the folder, which is this process's alone

	mu   sync.Mutex
	link identity
}

// Label is the label of the box with the folder, which may be running; that of a new box is made.
func Label(dir string) (protocol.Label, error) {
	d := folder(dir)
	unlock, err := d.open()
	switch {
	case err == nil:
		defer unlock()
	case !errors.Is(err, errInUse):
		return protocol.Label{}, err
	}
	id, err := d.identity()
	return id.label, err
}

// Open reads the folder, making the label of a new box, and listens.
func Open(b Box) (_ *Server, err error) {
	if b.Log == nil {
		b.Log = slog.New(slog.DiscardHandler)
	}
	if b.Work == nil {
		return nil, errors.New("cannot open the provisioning link: no work for the box to do was given")
	}
	b.TrialTime = cmp.Or(b.TrialTime, time.Minute)
	b.BodyTime = cmp.Or(b.BodyTime, 30*time.Second)
	s := &Server{box: b, folder: folder(b.Dir), tries: newTries(time.Now)}
	s.work = newWork(func(ctx context.Context) error { return b.Work(ctx, s.folder.config()) }, b.Log)
	if s.unlock, err = s.folder.open(); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			s.unlock()
		}
	}()
	if s.link, err = s.folder.identity(); err != nil {
		return nil, err
	}
	if _, err := s.folder.owner(); err != nil {
		// It is owned, but nobody can say by whom: only a reset by hand, or by the stick of somebody at the box, opens it.
		b.Log.Error("the box has an owner, but nobody can be let in", "error", err.Error())
	}
	lis, err := net.Listen("tcp", b.Listen)
	if err != nil {
		return nil, fmt.Errorf("cannot open the provisioning link at %s: %w; another program may use the port: give another address", b.Listen, err)
	}
	s.lis = tls.NewListener(newLimited(lis), &tls.Config{
		MinVersion: tls.VersionTLS13, ClientAuth: tls.RequestClientCert,
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			return &s.link.certificate, nil
		},
	})
	return s, nil
}

// Addr is where the link listens.
func (s *Server) Addr() string { return s.lis.Addr().String() }

// Label is what is to stand on the box now.
func (s *Server) Label() protocol.Label {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.link.label
}

// Owned says whether the box is somebody's.
func (s *Server) Owned() bool { return s.folder.owned() }

// Close ends a link that was not run.
func (s *Server) Close() error {
	defer s.unlock()
	return s.lis.Close()
}

// Run answers tools, and has the box work once it is owned, until ctx ends.
func (s *Server) Run(ctx context.Context) error {
	defer s.unlock()
	if s.Owned() {
		s.work.begin()
	} else {
		s.box.Log.Info("this box is nobody's: it waits for the field tool and does nothing else", "name", s.Label().Name(), "address", s.Addr())
	}
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() error { return s.serve(gctx) })
	g.Go(func() error { return s.work.run(gctx) })
	if s.box.Find {
		found := mdns.Responder{Listen: s.Addr(), Log: s.box.Log, Box: func() (string, bool) { return s.Label().Name(), s.Owned() }}
		g.Go(func() error { return found.Run(gctx) })
	}
	return g.Wait()
}

// alone runs an operation that needs the box for itself: the line from monitor to network is stopped for it and begins again
// afterwards. Monitors hear nothing meanwhile and keep, or repeat, as their protocol has it.
func (s *Server) alone(ctx context.Context, op func() error) error {
	resume, err := s.work.halt(ctx)
	if err != nil {
		return err
	}
	defer resume()
	return op()
}

// provision takes a grant and a configuration, or one of them on a box that has the other. Nothing is kept unless both fit each
// other, this box's keys and this firmware.
func (s *Server) provision(ctx context.Context, p protocol.Provision) error {
	return s.alone(ctx, func() error {
		if err := s.folder.check(ctx, p, s.box.Log); err != nil {
			return err
		}
		if err := s.folder.keep(p); err != nil {
			return err
		}
		o, err := s.folder.owner()
		if err != nil {
			return err
		}
		s.box.Log.Info("the box is provisioned", "box", o.id.String())
		s.work.begin()
		return nil
	})
}

// reset makes the box nobody's. What cannot be undone comes first: the keys.
func (s *Server) reset(ctx context.Context, r protocol.Reset) (done protocol.ResetDone, err error) {
	err = s.alone(ctx, func() error {
		s.work.end()
		if done.Note, err = s.folder.wipe(ctx, r.NewLabel, s.box.Log); err != nil {
			return err
		}
		id, err := s.folder.identity()
		if err != nil {
			return err
		}
		s.mu.Lock()
		s.link = id
		s.mu.Unlock()
		if r.NewLabel {
			done.Label = id.label.String()
		}
		s.box.Log.Warn("the box was reset: it is nobody's", "name", id.label.Name())
		return nil
	})
	return done, err
}

// configuration is that in force.
func (s *Server) configuration() (*config.Config, error) {
	if !s.Owned() {
		return nil, errors.New("this box is nobody's and has no configuration")
	}
	return config.Load(s.folder.config())
}
