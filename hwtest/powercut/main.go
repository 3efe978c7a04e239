// Command powercut cuts the power of a box again and again. The box, its peers and its monitors are real processes; the box's data lie
// on an ext4, as in the image, on a block device that forgets what was not flushed (disk.go). Each cut leaves the disk as a real one may
// be left: with any part of what was written since the last flush, torn at sectors and pages. Then the box starts on it, and the same
// peers hold it to what it has published before. Further places of what the disk was told are cut as well and looked at beside.
// What is cut where is drawn from a seed; what the machine does between is not.
package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/alecthomas/kong"

	"github.com/vitalgate/vitalgate/firmware/appliance/filesystem"
	"github.com/vitalgate/vitalgate/hwtest/hospital"
)

type command struct {
	Bin    string `default:"dist" help:"Folder of vitalgate and vitalpeer."`
	Cuts   int    `default:"100" help:"How often the box loses its power."`
	Beside int    `default:"4" help:"So many further places are looked at for each."`
	Seed   uint64 `default:"1" help:"What is cut where, and what is left of the unflushed."`
	TPM    string `default:"software" enum:"software,swtpm" help:"What holds the box's key: ${enum}. An emulated chip keeps its state beside the disk, as a real one does."`
	Keep   string `placeholder:"DIR" help:"Keep data, logs and, on a fault, the disk in this new folder."`

	Wear []int         `placeholder:"RATE,…" help:"Cut nothing: measure what is written to the disk at so many messages a second."`
	For  time.Duration `default:"20s" help:"How long at each of them."`
}

// mayNot is the exit status where nothing can be tested.
const mayNot = 3

func main() {
	if len(os.Args) == 4 && os.Args[1] == mountCommand {
		if err := mountHere(os.Args[2], os.Args[3]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var c command
	kong.Parse(&c, kong.Name("powercut"), kong.Description("Cut the power of a box on a disk that forgets what was not flushed, and count what was lost."))
	err := ownMounts()
	ok := false
	if err == nil {
		ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
		ok, err = c.run(ctx)
		stop()
	}
	switch {
	case errors.Is(err, errMayNot):
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(mayNot)
	case err != nil:
		fmt.Fprintln(os.Stderr, "powercut:", err)
		os.Exit(1)
	case !ok:
		os.Exit(1)
	}
}

const (
	diskBytes = 15 << 20 // as filesystem.Make makes it; to grow it takes more rights than to mount it
	monitors  = 4
	patience  = 5 * time.Minute // until what is under way has come through
	mostOps   = 400             // between power on and off
)

// A small log in small files, so that files begin and go all the time.
const spoolConfig = "[spool]\nquota = \"4MiB\"\nsegment = \"128KiB\"\n"

func (c *command) run(ctx context.Context) (ok bool, err error) {
	dir, remove, err := hospital.Folder("powercut", c.Keep)
	if err != nil {
		return false, err
	}
	defer remove()
	if dir, err = filepath.Abs(dir); err != nil {
		return false, err
	}
	image, err := empty(filepath.Join(dir, "empty.img"))
	if err != nil {
		return false, err
	}
	d := newDisk(image)
	file, err := serve(d, filepath.Join(dir, "fuse"))
	if err != nil {
		return false, err
	}
	defer unmount(filepath.Dir(file))

	addr, config := make([]string, monitors), spoolConfig
	for i := range addr {
		addr[i] = hospital.FreeAddr()
		config += hospital.Monitor(fmt.Sprintf("bed-%d", i+1), addr[i], "UTC")
	}
	h, err := hospital.New(ctx, hospital.Options{Bin: c.Bin, Dir: dir, TPM: c.TPM, Monitors: config})
	if err != nil {
		return false, err
	}
	data := h.Data("gw1/data")
	defer unmount(data)
	if c.TPM == "swtpm" {
		chip, state := filepath.Join(dir, "chip"), filepath.Join(data, "tpm", "swtpm")
		if err := errors.Join(os.Rename(state, chip), os.Symlink(chip, state)); err != nil {
			return false, err
		}
	}
	if err := furnish(file, data); err != nil {
		return false, err
	}
	if err := h.Start(ctx); err != nil {
		return false, errors.Join(err, h.Stop())
	}
	defer func() {
		for _, p := range h.All() {
			p.Kill() // what still runs; an orderly stop was asked for before
		}
	}()
	w := &world{command: c, dir: dir, data: data, file: file, h: h, d: d, addr: addr, dice: rand.New(rand.NewPCG(c.Seed, 0))}
	if len(c.Wear) > 0 {
		return true, w.wear(ctx)
	}
	w.acked.Each = w.noteAcked
	return w.cutPower(ctx)
}

// empty is the box's file system before anything is on it.
func empty(path string) ([]byte, error) {
	defer os.Remove(path)
	if err := os.WriteFile(path, make([]byte, diskBytes), 0o600); err != nil {
		return nil, err
	}
	if err := filesystem.Make(path); err != nil {
		return nil, err
	}
	return os.ReadFile(path)
}

// furnish puts the files of a folder on the disk, and mounts it there.
func furnish(file, dir string) error {
	old := dir + ".old"
	if err := os.Rename(dir, old); err != nil {
		return err
	}
	defer os.RemoveAll(old)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if err := mount(file, dir); err != nil {
		return err
	}
	if err := run("cp", "-a", old+"/.", dir); err != nil {
		return err
	}
	return run("sync", "-f", dir)
}

// world is the hospital with the disk of its box.
type world struct {
	*command
	dir, data, file string
	h               *hospital.Hospital
	d               *disk
	addr            []string
	dice            *rand.Rand
	acked           hospital.Acknowledged

	mu     sync.Mutex
	period int // how often the power has come
	answer []event
	seen   []event
	looks  []look
}

// event is something that a monitor or a peer has got from the box, and when.
type event struct {
	period, position int    // of the disk; the box has done it at the latest there
	what             uint64 // a number of a message that was acknowledged, an index that a peer has verified
}

func (w *world) note(all *[]event, what uint64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	*all = append(*all, event{w.period, w.d.position(), what})
}

func (w *world) noteAcked(n int) { w.note(&w.answer, uint64(n)) }

// cutPower cuts, and counts. ok says that nothing was lost, doubled, wrong or damaged.
func (w *world) cutPower(ctx context.Context) (ok bool, err error) {
	following, stop := context.WithCancel(ctx)
	var under sync.WaitGroup
	defer under.Wait()
	defer stop()
	under.Go(func() {
		w.h.Tail(following, "ward1", true, func(r hospital.Record) { w.note(&w.seen, r.Index) })
	})
	enough := make(chan struct{})
	all := make([]*hospital.Sender, monitors)
	var sending sync.WaitGroup
	for i := range all {
		all[i] = &hospital.Sender{Addr: w.addr[i], Bed: fmt.Sprintf("bed-%d", i+1), From: i * 200_000, To: (i + 1) * 200_000, Acked: &w.acked,
			Pause: 40 * time.Millisecond, Unanswered: 20 * time.Second, Done: enough}
		sending.Go(func() { all[i].Run(following) })
	}
	began := time.Now()
	w.h.Gateway.Kill()
	if err := unmount(w.data); err != nil {
		return false, err
	}
	for n := range w.Cuts {
		if err := w.cycle(ctx); err != nil {
			return false, fmt.Errorf("seed %d, cut %d: %w", w.Seed, n+1, err)
		}
		if (n+1)%50 == 0 {
			fmt.Printf("%d cuts, %d further places, %d acknowledged (%v)\n", n+1, len(w.looks)-n-1, w.acked.Count(), time.Since(began).Round(time.Second))
		}
	}
	if err := w.powerOn(0); err != nil {
		return false, fmt.Errorf("seed %d, after the last cut: %w", w.Seed, err)
	}
	close(enough)
	answered := make(chan struct{})
	go func() { sending.Wait(); close(answered) }()
	select {
	case <-answered:
	case <-time.After(patience):
		return false, fmt.Errorf("monitors still wait for acknowledgements %v after the last cut; box:\n%s", patience, w.h.Gateway.Log(3000))
	}
	return w.count(ctx, all)
}

// cycle lets the box live on the disk until the power goes, and looks at what is left.
func (w *world) cycle(ctx context.Context) error {
	last := 1 + w.dice.IntN(mostOps)
	if w.dice.IntN(4) == 0 {
		last = 1 + w.dice.IntN(40) // while the disk is mounted and the box starts
	}
	if err := w.powerOn(last); err != nil {
		return err
	}
	alive := time.NewTicker(50 * time.Millisecond)
	defer alive.Stop()
	late := time.After(patience)
	for w.d.hasPower() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-late:
			return fmt.Errorf("the box does nothing; its last words:\n%s", w.h.Gateway.Log(2000))
		case <-w.d.gone():
		case <-alive.C:
			if !w.h.Gateway.Running() && w.d.hasPower() {
				return fmt.Errorf("the box has ended; its last words:\n%s", w.h.Gateway.Log(2000))
			}
		}
	}
	w.h.Gateway.Kill()
	if err := unmount(w.data); err != nil {
		return fmt.Errorf("cannot unmount: %w", err)
	}
	for range w.Beside {
		n := 1 + w.dice.IntN(w.d.position())
		if err := w.look(w.d.cut(n, w.dice), n, false); err != nil {
			return err
		}
	}
	return nil
}

// powerOn brings the power back until so many operations, mounts the disk and starts the box.
func (w *world) powerOn(last int) error {
	n := w.d.position()
	image := w.d.cut(n, w.dice)
	if err := w.look(image, n, true); err != nil {
		return err
	}
	w.mu.Lock()
	w.period++
	w.d.on(image, last)
	w.mu.Unlock()
	err := mount(w.file, w.data)
	if err == nil {
		var out []byte
		if out, err = w.h.Run(context.Background(), "vitalgate", "fsck", w.data); err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
	}
	if err != nil {
		if w.d.hasPower() {
			return errors.Join(err, w.keep(image))
		}
		return nil // it has gone already
	}
	return w.h.Gateway.Start()
}

// keep leaves a disk that is not as it should be to whoever looks for the reason.
func (w *world) keep(image []byte) error {
	if w.Keep == "" {
		return errors.New("the disk is kept with --keep DIR")
	}
	path := filepath.Join(w.dir, "fault.img")
	return errors.Join(os.WriteFile(path, image, 0o600), fmt.Errorf("the disk is kept in %s", path))
}

// level says whether both peers hold as many records as the box has in its log, all signed.
func (w *world) level(ctx context.Context) bool {
	box, err := w.h.Spool()
	if err != nil || box.Signed < box.Next {
		return false
	}
	for _, p := range []*hospital.Process{w.h.Hub, w.h.Ward} { // tail shows readings alone, and the last record may tell of a start
		figures, err := w.h.Figures(ctx, p)
		if err != nil || uint64(figures[fmt.Sprintf("vitalpeer_store_records{box=%q}", hospital.Box)]) < box.Next {
			return false
		}
	}
	return true
}

// count holds the copies of the peers against what was acknowledged, and each look against them.
func (w *world) count(ctx context.Context, all []*hospital.Sender) (ok bool, err error) {
	wait := w.h.Wait(ctx, patience, "both peers have all that the box has signed", func() bool { return w.level(ctx) })
	if wait != nil {
		fmt.Println(wait)
	}
	for _, p := range []*hospital.Process{w.h.Gateway, w.h.Ward, w.h.Hub} {
		if err := p.Stop(20 * time.Second); err != nil {
			return false, fmt.Errorf("%s did not stop in order: %w; its last words:\n%s", p.Name, err, p.Log(2000))
		}
	}
	bad := 0
	index := map[int]uint64{} // of the hub's copy, by number; the ward cannot open records
	copies := map[string][]uint64{}
	for _, peer := range []string{"hub", "ward1"} {
		doubled, order, next := 0, 0, uint64(0)
		if err := w.h.Tail(ctx, peer, false, func(r hospital.Record) {
			if r.Index < next {
				order++
			}
			next = r.Index + 1
			copies[peer] = append(copies[peer], r.Index)
			if n := hospital.NumberOf(r.Bundle); n >= 0 {
				if _, twice := index[n]; twice {
					doubled++
				}
				index[n] = r.Index
			}
		}); err != nil {
			return false, fmt.Errorf("cannot read the copy of %s: %w", peer, err)
		}
		quarantined, err := w.h.Quarantined(peer)
		if err != nil {
			return false, err
		}
		if out, err := w.h.Run(ctx, "vitalpeer", "verify", "--data", w.h.Data(peer)); err != nil {
			return false, fmt.Errorf("the copy of %s does not verify: %w\n%s", peer, err, out)
		}
		fmt.Printf("%-6s %d records, doubled %d, out of order %d, quarantined %d\n", peer, len(copies[peer]), doubled, order, quarantined)
		bad += doubled + order + quarantined
	}
	if !slices.Equal(copies["hub"], copies["ward1"]) {
		fmt.Println("the copies of hub and ward1 differ")
		bad++
	}
	lost := 0
	for _, s := range all {
		for n := s.From; n < s.Begun(); n++ {
			if _, there := index[n]; w.acked.Has(n) && !there {
				lost++
			}
		}
	}
	bad += lost
	wrong, err := w.judge(index)
	if err != nil {
		return false, err
	}
	for _, s := range wrong[:min(len(wrong), 20)] {
		fmt.Println(s)
	}
	said := w.h.Gateway.Log(1 << 30)
	for _, damage := range []string{"the log is damaged", "log was set back", "a cursor is put aside", "cannot note"} {
		if n := strings.Count(said, damage); n > 0 {
			fmt.Printf("the box has said %d times: %s\n", n, damage)
			bad += n
		}
	}
	fmt.Printf("seed %d: %d cuts with the whole hospital, %d cuts in all, %d acknowledged, lost %d, faults %d\n",
		w.Seed, w.Cuts, len(w.looks), w.acked.Count(), lost, bad+len(wrong))
	return wait == nil && w.acked.Count() > 0 && bad+len(wrong) == 0, nil
}
