// Package lamp shows on the box's one lamp how it is, for a person without a screen (docs/field/README.md has the table).
package lamp

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// State is what the lamp tells.
type State int

const (
	Nobodys    State = iota // waits for the field tool
	Good                    // works
	Attention               // works, but something must be mended
	NotWorking              // readings are not taken, not kept or not trusted
)

// patterns are how long the lamp is on, off, on, off … of each state; nothing is: on for good.
var patterns = map[State][]time.Duration{
	Nobodys:    {time.Second, time.Second},
	Good:       {time.Hour},
	Attention:  {2700 * time.Millisecond, 300 * time.Millisecond},
	NotWorking: {100 * time.Millisecond, 100 * time.Millisecond},
}

// names of the lamp, the best first. Boards call it what they like; an image for one gives it the first name.
var names = []string{"vitalgate:status", "*:status", "status", "ACT", "led0"}

// Lamp is one lamp that this program switches.
type Lamp struct{ dir, most string }

// Find is the box's lamp below root ("/"); nil where it has none.
func Find(root string) *Lamp {
	for _, n := range names {
		found, _ := filepath.Glob(filepath.Join(root, "sys/class/leds", n))
		for _, dir := range found {
			most, err := os.ReadFile(filepath.Join(dir, "max_brightness"))
			if err != nil {
				continue
			}
			l := &Lamp{dir: dir, most: strings.TrimSpace(string(most))}
			os.WriteFile(filepath.Join(dir, "trigger"), []byte("none"), 0o644) // a lamp without triggers has no such file
			if l.set(true) == nil {
				return l
			}
		}
	}
	return nil
}

func (l *Lamp) set(on bool) error {
	level := "0"
	if on {
		level = l.most
	}
	return os.WriteFile(filepath.Join(l.dir, "brightness"), []byte(level), 0o644)
}

// Run shows the state, asked for every second, until ctx ends; then the lamp is off.
func (l *Lamp) Run(ctx context.Context, state func(context.Context) State) {
	defer l.set(false)
	now := state(ctx)
	ask := time.NewTicker(time.Second)
	defer ask.Stop()
	for step := 0; ctx.Err() == nil; step++ {
		pattern := patterns[now]
		l.set(step%len(pattern)%2 == 0)
		next := time.NewTimer(pattern[step%len(pattern)])
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				waiting = false
			case <-next.C:
				waiting = false
			case <-ask.C:
				if s := state(ctx); s != now {
					now, step, waiting = s, -1, false
				}
			}
		}
		next.Stop()
	}
}
