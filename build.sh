#!/usr/bin/env bash
# vitalgate: build, demonstrate, test. Needs Go and bash; anything more is detected and said. ./build.sh help
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
export CGO_ENABLED="${CGO_ENABLED:-0}"

version="${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unversioned)}"
ldflags="-s -w -X github.com/vitalgate/vitalgate/firmware/version.Version=$version -X main.Version=$version"
programs="vitalgate=./firmware vitalpeer=./peer vitalsim=./hwtest/simmonitor vitalprov=./provision"

say() { printf '%s\n' "$*" >&2; }

need_go() {
	command -v go >/dev/null || { say "build.sh: Go is missing. Install Go 1.26 or later (https://go.dev/dl) and try again."; exit 2; }
}

# compile OUTDIR: every program for GOOS/GOARCH into OUTDIR.
compile() {
	local p
	mkdir -p "$1"
	for p in $programs; do
		go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$1/${p%%=*}" "${p#*=}"
	done
}

tpm_note() {
	if command -v swtpm >/dev/null && command -v swtpm_setup >/dev/null; then say "the demo's box has an emulated TPM (swtpm)"
	else say "the demo's box has NOT A TPM (software key). Install swtpm and swtpm-tools for an emulated one."; fi
}

cmd_build() {
	need_go
	say "building into dist/ (the first time fetches modules and takes a few minutes) …"
	compile dist
	ls -l dist | awk 'NR>1 && !/^d/ {printf "dist/%-12s %6.1f MB\n", $NF, $5/1e6}' >&2
}

cmd_demo() {
	cmd_build
	tpm_note
	exec go run ./hwtest/demo --bin dist "$@"
}

cmd_test() {
	need_go
	command -v swtpm >/dev/null || say "tests on an emulated TPM are skipped: install swtpm and swtpm-tools to run them."
	[ -n "${VITALGATE_CORPUS:-}" ] || say "tests over a whole corpus of messages are skipped: set VITALGATE_CORPUS to its folder to run them."
	go vet ./...
	go test -count=1 -timeout 15m "$@" ./...
}

cmd_bench() {
	need_go
	go test -run '^$' -bench . -benchmem -count "${COUNT:-1}" "$@" ./...
}

cmd_chaos() {
	cmd_build
	tpm_note
	exec go run ./hwtest/chaos --bin dist "$@"
}

cmd_soak() {
	cmd_build
	tpm_note
	exec go run ./hwtest/soak --bin dist "$@"
}

cmd_powercut() {
	cmd_build
	go build -trimpath -buildvcs=false -o dist/powercut ./hwtest/powercut # not go run, which hides the exit status
	exec dist/powercut --bin dist "$@"
}

# cmd_fuzz [--minutes N] [--workers N] [--corpus DIR] [TARGET...]: each target in turn; what is found is kept beside its test as a seed.
cmd_fuzz() {
	need_go
	local minutes=60 workers=1 corpus=dist/fuzz work pkg target want wanted said found="" ran=0
	while [[ "${1:-}" == --* ]]; do
		[ $# -ge 2 ] || { say "build.sh fuzz: $1 needs a value"; exit 2; }
		case "$1" in
		--minutes) minutes="$2" ;;
		--workers) workers="$2" ;;
		--corpus) corpus="$2" ;;
		*) say "build.sh fuzz: unknown option '$1'; it takes --minutes, --workers and --corpus"; exit 2 ;;
		esac
		shift 2
	done
	mkdir -p "$corpus"
	corpus="$(cd "$corpus" && pwd)"
	work="$(mktemp -d)"
	trap "rm -rf '$work'" EXIT
	for pkg in $(grep -rlE --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do
		pkg="${pkg#./}"
		for target in $(grep -hoE '^func Fuzz[A-Za-z0-9_]*' "$pkg"/*_test.go | cut -d' ' -f2); do
			wanted=$#
			for want in "$@"; do
				if [[ "/$pkg/$target" == */"$want" || "$pkg" == "${want#./}" ]]; then wanted=0; fi
			done
			[ "$wanted" = 0 ] || continue
			ran=$((ran + 1))
			[ -e "$work/$pkg/test" ] || { mkdir -p "$work/$pkg"; go test -c -fuzz . -o "$work/$pkg/test" "./$pkg" || exit 2; }
			said="$work/$target"
			if (cd "$pkg" && "$work/$pkg/test" -test.run '^$' -test.fuzz "^$target\$" -test.fuzztime "${minutes}m" -test.fuzzminimizetime 1x \
				-test.parallel "$workers" -test.fuzzcachedir "$corpus/$pkg" 2>&1) >"$said"; then
				printf '%-45s %s\n' "$pkg/$target" "$(sed -n 's/^fuzz: elapsed: //p' "$said" | tail -1)"
			else
				printf '%-45s FINDING; what it is about, and its input, which is kept as a seed:\n' "$pkg/$target"
				cat "$said"
				sed -n 's/^ *Failing input written to //p' "$said" | while read -r want; do echo "$pkg/$want"; cat "$pkg/$want"; done
				found+=" $pkg/$target"
			fi
		done
	done
	rm -rf "$work"
	[ "$ran" -gt 0 ] || { say "build.sh fuzz: no target is called so: $*"; exit 2; }
	[ -z "$found" ] || { say "findings in$found"; exit 1; }
}

cmd_release() {
	need_go
	local t
	for t in linux/arm64 linux/arm/7 linux/amd64; do
		IFS=/ read -r os arch arm <<<"$t"
		out="dist/release/${t//\//-}"
		say "building $out …"
		GOOS=$os GOARCH=$arch GOARM=${arm:-} CGO_ENABLED=0 compile "$out"
	done
	for t in linux/amd64 linux/arm64 darwin/arm64 darwin/amd64 windows/amd64; do # the field tool runs on laptops
		IFS=/ read -r os arch <<<"$t"
		out="dist/release/vitalprov-${t//\//-}"
		[ "$os" = windows ] && out="$out.exe"
		say "building $out …"
		GOOS=$os GOARCH=$arch CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o "$out" ./provision
	done
	(cd dist/release && find . -type f ! -name SHA256SUMS | sort | xargs sha256sum >SHA256SUMS)
	cat dist/release/SHA256SUMS
}

# cmd_image [--version V] [--keys DIR] [--rollback-index N] [--out DIR]
cmd_image() {
	need_go
	local v="${VERSION:-$(git describe --tags --always --dirty 2>/dev/null || echo unversioned)}" keys=dist/keys index=1 out=dist/image kernel
	while [ $# -gt 0 ]; do
		case "$1" in
		--version) v="$2" ;;
		--keys) keys="$2" ;;
		--rollback-index) index="$2" ;;
		--out) out="$2" ;;
		*) say "build.sh image: unknown option '$1'; it takes --version, --keys, --rollback-index and --out"; exit 2 ;;
		esac
		shift 2 || { say "build.sh image: $1 needs a value"; exit 2; }
	done
	kernel="$(image/kernel/build)"
	mkdir -p dist
	go build -trimpath -buildvcs=false -o dist/image-tool ./image
	[ -d "$keys" ] || dist/image-tool keys "$keys"
	ldflags="-s -w -buildid= -X github.com/vitalgate/vitalgate/firmware/version.Version=$v -X main.Version=$v"
	GOOS=linux GOARCH=arm64 CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "$ldflags" -o dist/vitalgate-arm64 ./firmware
	dist/image-tool build --out "$out" --version "$v" --rollback-index "$index" --kernel "$kernel" --program dist/vitalgate-arm64 --keys "$keys"
	dist/image-tool verify "$out" --key "$keys/release.pub.pem"
}

cmd_help() {
	cat <<'TXT'
usage: ./build.sh COMMAND

  demo [--for 20s]  build, then run a hospital on this machine: hub peer, ward leaf peer, one box, four monitors
                    (one on a serial line); verified readings are printed as they arrive. With --for: a summary,
                    and an exit status that is not zero if anything was lost, doubled or unverified.
  test              vet and all tests (those that need swtpm, openssl or python3 say so when they are skipped)
  build             host binaries into dist/: vitalgate (the box), vitalpeer (a peer), vitalsim (simulated monitors),
                    vitalprov (the field tool)
  chaos [--minutes N] [--faults N] [--seed S]
                    a hospital of three hubs, two wards, one box and four monitors is broken at random (kill -9, pause, lost
                    bytes, full disk, set clock, TPM down and slow, old backups put back), several things at once; every 1,000
                    faults all is mended and must come level; at last every copy is counted. Exit status 0:
                    nothing acknowledged was lost, doubled or out of order. Disks are filled only with the right to mount.
  soak [--minutes N] [--rate 2000] [--every 5s]
                    32 monitors send at a pace to a box, a ward peer and a hub; memory, descriptors, goroutines, latency and disk are
                    written into dist/soak.tsv and drawn in dist/soak.svg. Exit status 0: nothing was lost or doubled, nothing grew.
                    An hour needs some 20 GB of disk.
  powercut [--cuts N] [--seed S] [--tpm swtpm] | --wear RATE,…
                    a box on a disk that forgets what was not flushed loses its power N times, with a ward, a hub and four monitors;
                    what is left is any part of the unflushed. Exit status 0: nothing acknowledged was lost, doubled, changed or
                    contradicted. 3: this machine does not let it mount. With --wear nothing is cut: a table of what the box writes
                    to its disk at so many messages a second.
  fuzz [--minutes 60] [--workers 1] [--corpus dist/fuzz] [TARGET...]
                    each fuzzer of what comes from outside, or those named (FuzzAck, hl7/FuzzParse, peer/store), for N minutes each;
                    what has been learned stays in the corpus folder for the next time. A finding is printed, its input is kept under
                    testdata/fuzz as a seed, and the others go on. Exit status 1: there was a finding.
  bench             all benchmarks; COUNT=10 ./build.sh bench >new.txt for benchstat
  image             the signed image of the box for arm64 with UEFI and TPM 2.0 into dist/image/: disk.img for an empty box,
                    update.vgu for a running one; --version V, --keys DIR (development keys are made when there are
                    none), --rollback-index N, --out DIR. docs/image.md says more. Needs the kernel's source and compiler.
  release           static binaries for linux/arm64, linux/arm (v7) and linux/amd64 into dist/release/; vitalprov also for macOS and Windows
  help              this text

Needs Go 1.26 or later and bash, nothing else. With swtpm and swtpm-tools the demo uses an emulated TPM.
TXT
}

case "${1:-help}" in
demo | test | build | bench | fuzz | chaos | soak | powercut | release | image | help) c=${1:-help}; shift || true; "cmd_$c" "$@" ;;
-h | --help) cmd_help ;;
*) say "build.sh: unknown command '$1'"; cmd_help >&2; exit 2 ;;
esac
