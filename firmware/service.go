package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"github.com/kardianos/service"

	"github.com/vitalgate/vitalgate/firmware/config"
)

// serviceCmd manages the service of the system's own service manager.
type serviceCmd struct {
	Action string `arg:"" enum:"install,start,stop,uninstall,status,run" help:"install, start, stop, uninstall or status."`
	Config string `short:"c" default:"/etc/vitalgate/config.toml" help:"Configuration file."`
}

func (c serviceCmd) Run(ctx context.Context) error {
	path, err := filepath.Abs(c.Config)
	if err != nil {
		return err
	}
	d := &daemon{config: path, done: make(chan error, 1)}
	s, err := service.New(d, &service.Config{
		Name: "vitalgate", DisplayName: "vitalgate", Description: "Reads the bedside monitor and publishes its signed readings.",
		Arguments: []string{"service", "run", "--config", path},
		Option:    service.KeyValue{"SystemdScript": systemdUnit},
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
	case "install":
		if _, err := config.Load(path); err != nil {
			return fmt.Errorf("not installed, because the configuration is not right: %w", err)
		}
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

// systemdUnit: ready when the monitors are read, restarted at once when it ends or gives no sign of life for half a minute. What was
// read is kept within two seconds of the stop.
const systemdUnit = `[Unit]
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

[Install]
WantedBy=multi-user.target
`

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
