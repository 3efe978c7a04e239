package pipeline

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/durable"
)

// resent recognises messages that a monitor sends again because it missed the acknowledgement (docs/adr/0005). It holds
// keyed digests of the latest messages, which stand in the leaves too, so that a box that was killed still knows them.
type resent struct {
	path string
	keys [2]digestKey // the one in use, and the one before
	now  func() moment

	mu   sync.Mutex // below: used by the keeper and, when the disk has spoken, by the committer
	seen map[record.Digest]struct{}
	line []record.Digest // in order of arrival, for forgetting
}

type digestKey struct {
	secret [32]byte
	from   moment
}

// moment is a time by two clocks. The one on the wall may be set, both ways, while a monitor waits for its acknowledgement; what the
// system counts since it was started may not, but ends with it.
type moment struct {
	wall time.Time
	boot string        // of the system
	up   time.Duration // since then
}

func thisMoment() moment {
	m := moment{wall: time.Now().UTC().Truncate(time.Second)}
	var up unix.Timespec
	if id := systemBoot(); id != "" && unix.ClockGettime(unix.CLOCK_BOOTTIME, &up) == nil {
		m.boot, m.up = id, time.Duration(up.Nano()).Truncate(time.Second)
	}
	return m
}

// systemBoot names this run of the system, "" where it cannot be told. It is asked once: each message needs the time.
var systemBoot = sync.OnceValue(func() string {
	id, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(id))
})

// since is how long ago from was, as far as it can be told: never less than nothing.
func (m moment) since(from moment) time.Duration {
	if m.boot != "" && m.boot == from.boot {
		return max(0, m.up-from.up)
	}
	return max(0, m.wall.Sub(from.wall))
}

const (
	digestKeyAge = 15 * time.Minute
	maxSeen      = 1 << 16 // digests remembered
)

// openResent reads the keys in dir and the digests of the latest leaves. Leaves that cannot be read are reported as damage and
// left out: the worst that follows is that a message sent again is kept twice.
func openResent(dir string, latest func(uint64, func(record.Leaf)) error) (r *resent, damage, err error) {
	r = &resent{path: filepath.Join(dir, "resent.keys"), seen: map[record.Digest]struct{}{}, now: thisMoment}
	text, err := os.ReadFile(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, fmt.Errorf("cannot read the keys for messages sent again: %w", err)
	}
	for i, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		f := append(strings.Fields(line), "", "", "", "")
		b, herr := hex.DecodeString(f[1])
		at, err := time.Parse(time.RFC3339, f[0])
		up, _ := strconv.ParseInt(f[3], 10, 64) // none in the files of older versions
		from := moment{at, f[2], time.Duration(up) * time.Second}
		if err != nil || herr != nil || len(b) != 32 || i >= len(r.keys) || r.now().since(from) > 2*digestKeyAge {
			break
		}
		r.keys[i].from = from
		copy(r.keys[i].secret[:], b)
	}
	if err := r.rotate(); err != nil {
		return nil, nil, err
	}
	damage = latest(maxSeen/2, func(l record.Leaf) {
		if h, _, err := record.ParseLeaf(l); err == nil && h.Digest != (record.Digest{}) {
			r.add(h.Digest)
		}
	})
	return r, damage, nil
}

// rotate takes a new key when the one in use is old; the one before the last is overwritten.
func (r *resent) rotate() error {
	now := r.now()
	if !r.keys[0].from.wall.IsZero() && now.since(r.keys[0].from) < digestKeyAge {
		return nil
	}
	r.keys[1] = r.keys[0]
	r.keys[0].from = now
	rand.Read(r.keys[0].secret[:])
	var b strings.Builder
	for _, k := range r.keys {
		fmt.Fprintf(&b, "%s %x %s %d\n", k.from.wall.Format(time.RFC3339), k.secret, cmp.Or(k.from.boot, "-"), int64(k.from.up/time.Second))
	}
	if err := durable.WriteFile(r.path, []byte(b.String())); err != nil {
		return fmt.Errorf("cannot keep the keys for messages sent again: %w; check the data folder's disk", err)
	}
	return nil
}

// digest of a message of a monitor about a patient under the key in use, and whether it has been here before.
func (r *resent) digest(monitor, patient string, message []byte) (d record.Digest, known bool, err error) {
	if err := r.rotate(); err != nil {
		return d, false, err
	}
	for i := len(r.keys) - 1; i >= 0; i-- { // the key in use last: its digest is the one to keep
		m := hmac.New(sha256.New, r.keys[i].secret[:])
		m.Write([]byte(monitor + "\x00" + patient + "\x00"))
		m.Write(message)
		copy(d[:], m.Sum(nil))
		if r.has(d) {
			return d, true, nil
		}
	}
	return d, false, nil
}

func (r *resent) has(d record.Digest) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, ok := r.seen[d]
	return ok
}

// forget takes back an add: the message did not come to disk.
func (r *resent) forget(d record.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.seen, d)
}

func (r *resent) add(d record.Digest) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.line) >= maxSeen {
		half := len(r.line) / 2
		for _, old := range r.line[:half] {
			delete(r.seen, old)
		}
		r.line = append(r.line[:0], r.line[half:]...)
	}
	r.seen[d] = struct{}{}
	r.line = append(r.line, d)
}
