package serial

import "path/filepath"

// Lines are the serial devices of this machine, by names that stay the same where the system gives such; each device once.
func Lines() []string {
	all := []string{}
	seen := map[string]bool{}
	for _, pattern := range []string{"/dev/serial/by-path/*", "/dev/ttyUSB*", "/dev/ttyACM*", "/dev/ttyAMA*", "/dev/ttyS*"} {
		found, _ := filepath.Glob(pattern)
		for _, path := range found {
			device, err := filepath.EvalSymlinks(path)
			if err == nil && !seen[device] {
				seen[device] = true
				all = append(all, path)
			}
		}
	}
	return all
}
