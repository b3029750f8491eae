#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# One container in its own guest, under the distribution's containerd with root, state and socket in
# one folder that is taken away at the end. FLAVOUR (distro) says which guest image; make demo has
# built it.
set -euo pipefail
cd "$(dirname "$0")/../.."

# The container's mounts are made in a namespace that ends with this script.
if [ "${DEMO_INSIDE-}" = "" ]; then
	[ "$(id -u)" = 0 ] || { echo "demo: containerd needs root: run make demo as root" >&2; exit 1; }
	exec env DEMO_INSIDE=1 unshare --mount --propagation slave "$0" "$@"
fi

build=${CLOISTER_BUILD:-$PWD/build}
guest=$build/guest/${FLAVOUR:-distro}
image=docker.io/cloister/busybox:latest
dir=$(mktemp -d "${TMPDIR:-/tmp}/cloister-demo.XXXXXX")
daemon=

# say TEXT: a heading, bold on a terminal unless NO_COLOR is set.
bold= plain=
if [ -t 1 ] && [ -z "${NO_COLOR-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
say() { printf '\n%s%s%s\n' "$bold" "$*" "$plain"; }
note() { printf '  %s\n' "$*"; }
ctr() { command ctr --address "$dir/containerd.sock" "$@"; }

# descendants PID: its children, and theirs.
descendants() {
	local child
	for child in $(pgrep -P "$1"); do
		echo "$child"
		descendants "$child"
	done
}

clean() {
	rc=$?
	trap - EXIT
	set +e
	say "Clean up"
	for id in shown once; do
		ctr task kill --signal KILL "$id" >/dev/null 2>&1 || true
		ctr task delete --force "$id" >/dev/null 2>&1 || true
		ctr container delete "$id" >/dev/null 2>&1 || true
	done
	if [ -n "$daemon" ] && kill "$daemon" 2>/dev/null; then wait "$daemon" 2>/dev/null || true; fi
	[ "$rc" = 0 ] || { echo "-- containerd's log:"; grep -v 'loading plugin' "$dir/containerd.log" | tail -n 25; }
	grep -E "^[^ ]+ $dir" /proc/mounts | cut -d ' ' -f 2 | sort -r | while read -r target; do umount -l "$target" || true; done
	left=$(pgrep -f "$dir" | grep -vx -e $$ -e $BASHPID | xargs -r ps -o pid=,args= -p 2>/dev/null |
		grep -v -e demo.sh -e pgrep | cut -c 1-120 || true)
	rm -rf "$dir"
	if [ -n "$left" ]; then
		note "still there: $left"
		rc=1
	else
		note "no process, no mount, no file is left; $SECONDS s in all"
	fi
	exit "$rc"
}
trap clean EXIT

for file in "$build/containerd-shim-cloister-v2" "$guest/kernel"; do
	[ -e "$file" ] || { echo "demo: no $file: run make demo" >&2; exit 1; }
done
mkdir -p "$dir/root" "$dir/state" "$dir/cloister"
cat >"$dir/containerd.toml" <<EOF
version = 2
root = "$dir/root"
state = "$dir/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "$dir/containerd.sock"
[debug]
level = "debug"
EOF
cat >"$dir/cloister.toml" <<EOF
state = "$dir/cloister"
root = "$dir/cloister-root"
[guest]
image = "$guest"
# It shows one start, and ends before a template could be built.
[template]
mode = "off"
EOF

say "A private containerd in $dir"
export PATH=$build:$PATH CLOISTER_CONFIG=$dir/cloister.toml
containerd --version
containerd --config "$dir/containerd.toml" >"$dir/containerd.log" 2>&1 &
daemon=$!
for _ in $(seq 100); do
	ctr version >/dev/null 2>&1 && break
	kill -0 "$daemon" || exit 1
	sleep 0.1
done

say "An image made from busybox-static"
go run ./tests/images/archive "$dir/busybox.tar"
ctr images import "$dir/busybox.tar"

say "ctr run --runtime io.containerd.cloister.v2 $image: host and guest"
note "host:  $(uname -srm)"
begin=$(date +%s%N)
answer=$(ctr run --rm --runtime io.containerd.cloister.v2 "$image" once uname -srm)
note "guest: $answer"
note "(ctr run --rm ... uname took $((($(date +%s%N) - begin) / 1000000)) ms)"

say "A sandbox that stays, and its processes on the host"
ctr run --detach --runtime io.containerd.cloister.v2 "$image" shown sleep 600
ctr task list
shim=$(pgrep -f -- "containerd-shim-cloister-v2 .*-id shown .*$dir" | head -n 1)
printf '  %7s %9s  %s\n' PID RSS-KIB COMMAND
# shellcheck disable=SC2046
ps -o pid=,rss=,args= -p "$(printf '%s,' "$shim" $(descendants "$shim") | sed 's/,$//')" | cut -c 1-110 | sed 's/^/  /'
# shellcheck disable=SC2016
look='echo "$(ps | grep -c .) lines of ps, memory $(free -m | awk "/Mem/ { print \$3 }") of \
$(free -m | awk "/Mem/ { print \$2 }") MiB, pid 1 is $(cat /proc/1/comm)"'
note "in the container: $(ctr task exec --exec-id look shown sh -c "$look")"

say "The phases of its start, in milliseconds"
record=$dir/cloister/default/shown/record.json
tr -d ' \n\t' <"$record" | grep -oE '"name":"[^"]*","offsetMs":[0-9]+,"durationMs":[0-9]+' |
	sed -E 's/"name":"([^"]*)","offsetMs":([0-9]+),"durationMs":([0-9]+)/\1 \2 \3/' |
	awk '{ printf "  %-16s at %6d  took %6d\n", $1, $2, $3 }'
