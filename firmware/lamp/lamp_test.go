package lamp_test

import (
	"context"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/lamp"
)

func lampAt(t *testing.T, root, name string) (brightness string) {
	t.Helper()
	dir := filepath.Join(root, "sys/class/leds", name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{"max_brightness": "255\n", "brightness": "0\n", "trigger": "none [mmc0]\n"} {
		if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "brightness")
}

func read(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestTheBestLampIsTaken(t *testing.T) {
	root := t.TempDir()
	if lamp.Find(root) != nil {
		t.Fatal("a lamp where there is none")
	}
	other := lampAt(t, root, "mmc0::")
	if lamp.Find(root) != nil {
		t.Error("the lamp of the memory card is taken for the box's")
	}
	act, best := lampAt(t, root, "ACT"), lampAt(t, root, "vitalgate:status")
	if lamp.Find(root) == nil || read(t, best) != "255" || read(t, act) != "0\n" || read(t, other) != "0\n" {
		t.Errorf("best %q, others %q %q", read(t, best), read(t, act), read(t, other))
	}
	if got := read(t, filepath.Join(filepath.Dir(best), "trigger")); got != "none" {
		t.Errorf("the trigger is %q", got)
	}
}

// TestTheLampTells waits for what each state looks like, not for when.
func TestTheLampTells(t *testing.T) {
	root := t.TempDir()
	path := lampAt(t, root, "status")
	l := lamp.Find(root)
	var state atomic.Int32
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx, func(context.Context) lamp.State { return lamp.State(state.Load()) })
	}()
	until := func(what string, ok func(string) bool) {
		t.Helper()
		for end := time.Now().Add(time.Minute); !ok(read(t, path)); time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not: %s", what)
			}
		}
	}
	on, off := func(s string) bool { return s == "255" }, func(s string) bool { return s == "0" }
	for _, s := range []lamp.State{lamp.NotWorking, lamp.Nobodys, lamp.Attention} {
		state.Store(int32(s))
		until("it blinks off", off)
		until("it blinks on", on)
	}
	state.Store(int32(lamp.Good))
	time.Sleep(1100 * time.Millisecond) // it is asked for every second; what was blinking may blink until then
	until("it is on", on)
	stop()
	<-done
	if got := read(t, path); got != "0" {
		t.Errorf("after the end it is %q", got)
	}
}
