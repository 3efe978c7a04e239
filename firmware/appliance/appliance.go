// Package appliance is the first process of the box (PID 1): it opens the disk with the key in the TPM, sets up network and time,
// feeds the watchdog, watches what is plugged in, and runs the box: the provisioning link, and the line from monitor to network
// as a process of its own. There is no shell, no login, and no port but that of the link and those of the configuration.
package appliance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/firmware/lamp"
	"github.com/vitalgate/vitalgate/firmware/maintain"
	"github.com/vitalgate/vitalgate/firmware/measured"
	"github.com/vitalgate/vitalgate/firmware/notify"
	"github.com/vitalgate/vitalgate/firmware/update"
	"github.com/vitalgate/vitalgate/image/release"
	"github.com/vitalgate/vitalgate/provision/protocol"
	"github.com/vitalgate/vitalgate/tpm"
	"github.com/vitalgate/vitalgate/tpm/attestation"
)

const tpmDevice = "/dev/tpmrm0"

// IsFirstProcess says whether this program was started by the kernel as the box's /init.
func IsFirstProcess() bool { return os.Getpid() == 1 && os.Args[0] == "/init" }

// box is what the first process holds.
type box struct {
	log     *slog.Logger
	running release.Running
	slots   update.UEFI
	work    *worker
	net     *network
	clock   *clock
	drive   *drive
	vault   *tpm.Vault
	data    *store
	updater *update.Updater
	server  *maintain.Server
	firm    *attestation.Firmware
	hung    bool          // before this start; the watchdog restarted it
	trial   atomic.Bool   // written by judge, read for tools and when the folder is handed over
	ended   chan struct{} // closed when the line has ended; nil while there is none
	again   chan string   // why the box is to restart

	updating atomic.Pointer[string] // how far an update is; "" none
}

// Main runs the box. It does not return: at its end the machine restarts.
func Main(log *slog.Logger) {
	b := &box{log: log, again: make(chan string, 1), slots: update.UEFI{Dir: efiVariables}, work: &worker{log: log}}
	b.work.system, b.work.trial = b.system, b.trial.Load
	ctx, stop := context.WithCancel(context.Background())
	why := b.run(ctx)
	log.Warn("the box restarts", "why", why)
	stop()
	if b.ended != nil {
		select {
		case <-b.ended:
		case <-time.After(stopTime + 5*time.Second):
		}
	}
	restart(log)
}

// restart ends the machine in order: what was written is on the disk.
func restart(log *slog.Logger) {
	unix.Sync()
	if err := unix.Unmount(dataFolder, 0); err != nil && !errors.Is(err, unix.EINVAL) {
		log.Warn("the data partition could not be unmounted", "why", err.Error())
	}
	unix.Sync()
	for {
		if err := unix.Reboot(unix.LINUX_REBOOT_CMD_RESTART); err != nil {
			log.Error("cannot restart", "error", err.Error())
		}
		time.Sleep(time.Second)
	}
}

// run goes through the start and then waits for a reason to restart, which it returns.
func (b *box) run(ctx context.Context) string {
	if err := mountAll(); err != nil {
		b.log.Error("cannot start", "error", err.Error())
		time.Sleep(10 * time.Second)
		return "the kernel's file systems are missing"
	}
	dog := openWatchdog(b.log)
	if b.hung = dog.fired(); b.hung {
		b.log.Warn("the watchdog restarted the box, because it hung")
	}
	go dog.feed(ctx, b.work.alive)
	plug := &hotplug{stick: func(device string) { b.stick(ctx, device) }, log: b.log}
	again, err := b.open(ctx)
	if again != "" {
		return again
	}
	if err != nil {
		return b.locked(ctx, plug, err)
	}
	go b.plugs(ctx, plug)
	go button(ctx, b.wipe, b.log)
	b.ended = make(chan struct{})
	go func() {
		err := b.server.Run(ctx)
		close(b.ended)
		if ctx.Err() == nil {
			b.again <- "the provisioning link ended: " + errText(err)
		}
	}()
	if l := lamp.Find("/"); l != nil {
		go l.Run(ctx, b.server.State)
	}
	if b.trial.Load() {
		go b.judge(ctx)
	}
	return <-b.again
}

func errText(err error) string {
	if err == nil {
		return "without a reason"
	}
	return err.Error()
}

func (b *box) plugs(ctx context.Context, plug *hotplug) {
	for ctx.Err() == nil {
		if err := plug.run(ctx); err != nil {
			b.log.Error("plugs are not watched for a moment", "error", err.Error())
			time.Sleep(time.Second)
		}
	}
}

// open brings the box up to the point where its server can run. A text says that the box must restart first.
func (b *box) open(ctx context.Context) (again string, err error) {
	text, err := os.ReadFile(release.RunningPath)
	if err != nil {
		return "", fmt.Errorf("cannot read what this release is: %w", err)
	}
	if err := json.Unmarshal(text, &b.running); err != nil {
		return "", fmt.Errorf("cannot read what this release is: %w", err)
	}
	b.log.Info("vitalgate starts", "version", b.running.Version, "rollback_index", b.running.RollbackIndex, "keys", b.running.Keys)
	if b.running.Keys == "development" {
		b.log.Warn("this image was made with DEVELOPMENT KEYS: it is for trying out, not for patients")
	}
	on, setup, err := secureBoot(b.slots)
	if err != nil {
		return "", err
	}
	if !on && setup {
		if err := takeKeys(b.slots); err != nil {
			return "", err
		}
		if err := b.slots.Prepare(); err != nil {
			return "", err
		}
		return "the firmware has taken the keys of the image; from the next start on it runs nothing else", nil
	}
	if !on {
		return "", errors.New("cannot start: secure boot is off; turn it on in the firmware's setup, or clear its keys there so that the image can set its own")
	}
	if err := b.slots.Prepare(); err != nil {
		return "", err
	}
	if b.drive, err = findDrive(20 * time.Second); err != nil {
		return "", err
	}
	if err := b.drive.grow(); err != nil {
		return "", err
	}
	if b.vault, err = tpm.OpenVault(ctx, tpmDevice); err != nil {
		return "", err
	}
	lowest, err := b.vault.Rollback(ctx)
	if err != nil {
		return "", err
	}
	if uint64(b.running.RollbackIndex) < lowest {
		return "", fmt.Errorf("cannot start release %s: its rollback index is %d, and this box has committed %d", b.running.Version, b.running.RollbackIndex, lowest)
	}
	if b.firm, err = measured.Firmware(); err != nil {
		return "", err
	}
	if b.firm == nil {
		return "", errors.New("cannot start: the release carries no approval, so the disk cannot be opened")
	}
	if b.data, err = openData(ctx, b.drive.parts["vitalgate-data"], b.vault, b.firm); err != nil {
		return "", err
	}
	if err := b.shut(ctx); err != nil {
		return "", err
	}
	b.log.Info("the data is open", "new", b.data.fresh)
	if b.data.mended {
		b.log.Warn("a power cut had torn the superblock of the data; it was mended")
	}
	return b.ready(ctx)
}

// shut ends unsealing for this run, and makes sure of it.
func (b *box) shut(ctx context.Context) error {
	if err := b.vault.Shut(ctx); err != nil {
		return err
	}
	f, err := os.Open(b.data.device)
	if err != nil {
		return err
	}
	defer f.Close()
	h, err := readHead(f)
	if err != nil {
		return err
	}
	key, err := b.vault.Unseal(ctx, h.Sealed, b.firm)
	clear(key)
	if err == nil {
		return errors.New("cannot go on: the TPM gives the key of the disk a second time")
	}
	if !errors.Is(err, tpm.ErrFirmware) {
		return err
	}
	return nil
}

// ready puts the parts together once the data is open.
func (b *box) ready(ctx context.Context) (again string, err error) {
	text, err := os.ReadFile(release.ReleaseKeyPath)
	if err != nil {
		return "", err
	}
	key, err := release.ParseKey(text)
	if err != nil {
		return "", err
	}
	b.updater = &update.Updater{Slots: b.slots, Open: b.drive.openSlot, Key: key, Running: b.running, Rollback: b.vault.Rollback,
		Raise: b.vault.RaiseRollback, Note: filepath.Join(dataFolder, "update.json"), Log: b.log}
	trial, restart, err := b.updater.Begin(ctx)
	if err != nil {
		return "", err
	}
	if restart {
		return "a release is to be tried again", nil
	}
	b.trial.Store(trial)
	b.clock = &clock{path: filepath.Join(dataFolder, "clock.json"), log: b.log, chip: func(ctx context.Context) (chipClock, error) {
		resets, ms, err := b.vault.Clock(ctx)
		return chipClock{resets, ms}, err
	}}
	b.clock.begin(ctx)
	b.net = newNetwork(filepath.Join(dataFolder, "network.json"), b.log)
	if err := b.net.begin(ctx); err != nil {
		b.log.Error("there is no network", "error", err.Error())
	}
	go b.clock.run(ctx, b.net.timeServers)
	if err := os.Chown(tpmDevice, workUser, workUser); err != nil {
		return "", err
	}
	if err := notify.Listen(ctx, notifySocket, b.work.hear); err != nil {
		return "", err
	}
	b.server, err = maintain.Open(maintain.Box{
		Dir: boxFolder, Listen: ":" + protocol.Port, Log: b.log, Work: b.work.run, Network: b.net,
		Test: b.test, Update: b.update, Wipe: b.wipe, System: b.system, Find: true,
	})
	return "", err
}

// restartSoon has the machine restart when the answer to whoever asked for it is on its way.
func (b *box) restartSoon(why string) {
	time.AfterFunc(2*time.Second, func() {
		select {
		case b.again <- why:
		default:
		}
	})
}

// system are the facts of the image for the field tool.
func (b *box) system() map[string]string {
	facts := map[string]string{"release": b.running.Version, "rollback index": fmt.Sprint(b.running.RollbackIndex), "keys": b.running.Keys, "secure boot": "on"}
	if s, err := b.slots.Current(); err == nil {
		facts["slot"] = string(s)
	}
	if b.hung {
		facts["last restart"] = "by the watchdog, because the box hung"
	}
	if now := b.updating.Load(); now != nil && *now != "" {
		facts["update"] = "under way: " + *now
	} else if b.trial.Load() {
		facts["update"] = "this release is on trial until a reading comes through"
	} else if t, err := b.updater.Trial(); err == nil && t.Version != "" {
		facts["update"] = "release " + t.Version + ": " + t.Outcome
	}
	return facts
}
