package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/kardianos/service"

	"github.com/vitalgate/vitalgate/firmware/config"
)

// serviceCmd manages the service of the system's own service manager.
type serviceCmd struct {
	Action string `arg:"" enum:"install,start,stop,uninstall,status,run" help:"install, start, stop, uninstall or status."`
	Config string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file."`
	User   string `default:"vitalgate" help:"systemd, install: the user that the service runs as; root for none of its own."`
}

func (c serviceCmd) Run(ctx context.Context) error {
	path, err := filepath.Abs(c.Config)
	if err != nil {
		return err
	}
	var script string
	if c.Action == "install" {
		cfg, err := config.Load(path)
		if err != nil {
			return fmt.Errorf("not installed, because the configuration is not right: %w", err)
		}
		if script, err = c.prepare(path, cfg); err != nil {
			return fmt.Errorf("not installed: %w", err)
		}
	}
	d := &daemon{config: path, done: make(chan error, 1)}
	s, err := service.New(d, &service.Config{
		Name: "vitalgate", DisplayName: "vitalgate", Description: "Reads the bedside monitor and publishes its signed readings.",
		Arguments: []string{"service", "run", "--config", path},
		Option:    service.KeyValue{"SystemdScript": script},
	})
	if err != nil {
		return fmt.Errorf("cannot use this system's service manager: %w; run vitalgate run under a supervisor of your choice", err)
	}
	switch c.Action {
	case "run":
		return s.Run()
	case "status":
		st, err := s.Status()
		switch {
		case errors.Is(err, service.ErrNotInstalled):
			fmt.Println("not installed")
			return errSaid
		case err != nil:
			return fmt.Errorf("cannot tell from the service manager (%s): %w; is the service installed (vitalgate service install), and is the service manager running?", service.Platform(), err)
		}
		fmt.Println(map[service.Status]string{service.StatusRunning: "running", service.StatusStopped: "stopped"}[st])
		return nil
	}
	if err := service.Control(s, c.Action); err != nil {
		hint := ""
		if os.Geteuid() != 0 {
			hint = "; this needs root"
		}
		return fmt.Errorf("cannot %s the service (%s): %w%s", c.Action, service.Platform(), err, hint)
	}
	fmt.Printf("service vitalgate: %s done\n", c.Action)
	return nil
}

// prepare gives the data folder to the service's user, makes sure that it can read what it works by, and writes the unit.
func (c serviceCmd) prepare(path string, cfg *config.Config) (unit string, err error) {
	if service.Platform() != "linux-systemd" || c.User == "root" {
		return systemdUnit("", nil, cfg.Box.Data), nil
	}
	u, err := user.Lookup(c.User)
	if err != nil {
		return "", fmt.Errorf("there is no user %s for the service; make it (useradd --system --user-group --no-create-home --shell /usr/sbin/nologin %s), or name another with --user", c.User, c.User)
	}
	uid, err1 := strconv.Atoi(u.Uid)
	gid, err2 := strconv.Atoi(u.Gid)
	if err := errors.Join(err1, err2); err != nil {
		return "", fmt.Errorf("cannot use the user %s: %w", c.User, err)
	}
	for _, file := range []string{path, cfg.Network.Grant} {
		st, err := os.Stat(file)
		if file == "" || errors.Is(err, fs.ErrNotExist) { // a grant may come later
			continue
		}
		if err != nil {
			return "", err
		}
		own, mode := st.Sys().(*syscall.Stat_t), st.Mode().Perm()
		if mode&0o004 == 0 && !(int(own.Gid) == gid && mode&0o040 != 0) && !(int(own.Uid) == uid && mode&0o400 != 0) {
			return "", fmt.Errorf("user %s cannot read %s; run: chgrp %s %s && chmod 640 %s", c.User, file, u.Gid, file, file)
		}
	}
	if err := os.MkdirAll(cfg.Box.Data, 0o700); err != nil {
		return "", err
	}
	err = filepath.WalkDir(cfg.Box.Data, func(path string, _ fs.DirEntry, err error) error {
		return errors.Join(err, os.Lchown(path, uid, gid))
	})
	if err != nil {
		return "", fmt.Errorf("cannot give the data folder to user %s: %w", c.User, err)
	}
	var groups []string
	for _, name := range []string{"dialout", "uucp", "tss"} { // serial lines, and the TPM
		if _, err := user.LookupGroup(name); err == nil {
			groups = append(groups, name)
		}
	}
	return systemdUnit(c.User, groups, cfg.Box.Data), nil
}

// systemdUnit: ready when the monitors are read, restarted at once when it ends or gives no sign of life for half a minute. What was
// read is kept within two seconds of the stop. A user of its own may write to its data folder and to nothing else, and listen on
// low ports (systemd.exec(5)).
func systemdUnit(user string, groups []string, data string) string {
	const stateFolder = "/var/lib/vitalgate"
	own := ""
	if user != "" {
		own = "User=" + user + "\n"
		if len(groups) > 0 {
			own += "SupplementaryGroups=" + strings.Join(groups, " ") + "\n"
		}
		if data == stateFolder {
			own += "StateDirectory=vitalgate\nStateDirectoryMode=0700\n"
		} else {
			own += "ReadWritePaths=" + strconv.Quote(data) + "\n"
		}
		own += `UMask=0077
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
ProtectSystem=strict
PrivateTmp=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictSUIDSGID=yes
LockPersonality=yes
`
	}
	return `[Unit]
Description={{Description}}
After=network.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={{Path | cmdEscape}}{{range Arguments}} {{. | cmd}}{{end}}
Restart=always
RestartSec=1
WatchdogSec=30
TimeoutStopSec=15
LimitNOFILE=4096
` + own + `
[Install]
WantedBy=multi-user.target
`
}

// daemon is the box under a service manager.
type daemon struct {
	config string
	stop   context.CancelFunc
	done   chan error
}

// Start must not block.
func (d *daemon) Start(s service.Service) error {
	ctx, cancel := context.WithCancel(context.Background())
	d.stop = cancel
	go func() {
		err := forget()
		if err == nil {
			err = run(ctx, d.config, newLog(slog.LevelInfo))
		}
		d.done <- err
		if err != nil && ctx.Err() == nil {
			fmt.Fprintln(os.Stderr, "vitalgate:", err)
			os.Exit(1) // the service manager starts it again
		}
	}()
	return nil
}

// Stop waits until what was read is kept.
func (d *daemon) Stop(s service.Service) error {
	d.stop()
	return <-d.done
}
