// Package version names the build.
package version

import "runtime/debug"

// Version is set by the linker (build.sh).
var Version = "unversioned"

// String is the version with the Go toolchain that built it.
func String() string {
	if b, ok := debug.ReadBuildInfo(); ok {
		return Version + " " + b.GoVersion
	}
	return Version
}
