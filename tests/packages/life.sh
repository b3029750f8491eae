#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
#
# The life of the packages in a throwaway machine, before and after one start of it. Each claim is a
# line "claim NAME", the output of what was run, and "holds" if it ended with 0.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C DEBIAN_FRONTEND=noninteractive
cd /life || exit 1
image=docker.io/cloister/busybox:latest
runtime=io.containerd.cloister.v2

claim() {
	name=$1
	shift
	printf '\nclaim %s\n' "$name"
	if ("$@") </dev/null 2>&1; then echo holds; else echo "status $?"; fi
}

# same TEXT: is that what the standard input says?
same() { [ "$(cat)" = "$1" ]; }

# files lists what packages could leave on the host, with sums of what is in /etc.
files() {
	find /etc /usr /var /run /opt /srv -xdev \
		\( -path /var/log -o -path /var/lib/dpkg -o -path /var/lib/systemd -o -path /var/cache \
		-o -path /var/lib/containerd -o -path /run/containerd -o -path /run/systemd -o -path /run/udev \
		-o -path /run/log -o -path /run/initctl -o -path /var/tmp \) -prune -o -print | sort
	find /etc -xdev -type f -exec sha256sum {} + | grep -v -e ' /etc/.*-$' -e machine-id | sort -k 2
}

start() { ctr run --detach --runtime $runtime $image "$1" sleep 3600; }
look() { ctr task exec --exec-id "look$$" "$1" uname -s | same Linux; }
end() {
	ctr task kill --signal KILL "$1"
	tries=0
	until ctr task delete "$1" >/dev/null 2>&1 || [ $tries = 100 ]; do
		sleep 0.2
		tries=$((tries + 1))
	done
	ctr container delete "$1" && ! ctr task list -q | grep -x "$1"
}

# State of a sandbox: its line of ps has both words.
shown() { cloister ps | grep "$1 .*$2"; }
shim_of() { pgrep -f "containerd-shim-cloister.* -id $1"; }
no_shim_of() { ! shim_of "$1"; }

# keep_guest: tests/hostmachine/holdguest says what for.
keep_guest() {
	/life/holdguest &
	sleep 1
	kill -0 $!
}
fresh() { [ "$(cat /proc/1/comm)" = systemd ] && [ -c /dev/kvm ] && systemctl is-active containerd; }
# documented: pages and completions where man and Debian's shells look for them.
documented() {
	for file in man/man1/cloister.1.gz man/man1/cloister-check.1.gz bash-completion/completions/cloister \
		zsh/vendor-completions/_cloister fish/vendor_completions.d/cloister.fish; do
		[ -s /usr/share/$file ] || { echo "no /usr/share/$file" && return 1; }
	done
}
upgrade_cloister() {
	echo '# changed' >>/etc/cloister/config.toml
	dpkg --force-confold -i new/cloister_*.deb
	# The last claims look for processes and files right after a sandbox has ended, when a template
	# may still be in the making. The earlier version may not know the key.
	printf '[template]\nmode = "off"\n' >$no_templates
}
no_templates=/etc/cloister/config.d/templates.toml
reads_old_record() {
	cloister ps
	shown one running && cloister inspect one && cloister logs one >/dev/null
}
both_old() {
	cloister ps
	cloister ps | grep -c OLD | same 2 && cloister check | grep '2 of 2 run on an older image'
}
# top_on_terminal types q when top has drawn three times, and shows the last picture.
top_on_terminal() {
	touch screen
	{
		tries=0
		until [ "$(grep -c NAMESPACE screen)" -ge 3 ] || [ $tries = 200 ]; do
			sleep 0.5
			tries=$((tries + 1))
		done
		printf q
	} | script -qefc "stty cols 150 rows 12; cloister top --sort name --interval 2s" screen >/dev/null || return 1
	esc=$(printf '\033')
	tr -d '\r' <screen | sed -e "s/$esc\[H/\n/g" -e "s/$esc\[[?0-9]*[A-Za-z]//g" >drawn
	sed -n "$(grep -n '^cloister top' drawn | tail -n 1 | cut -d : -f 1)"',$p' drawn | grep -v '^Script done'
	grep -q '  3 sandboxes ' drawn && grep -q 'three .*vm .*running' drawn && grep -q "$esc\[?1049l" screen
}
# takes_auto puts the new default into the configuration that the upgrade kept.
takes_auto() { sed -i 's/^mac = .*/mac = "auto"/' /etc/cloister/config.toml && cloister check | grep -i apparmor; }
profiled() { cat /proc/[0-9]*/attr/current 2>/dev/null | tr '\0' '\n' | grep '^cloister.*(enforce)'; }
agent_version() { cloister check | grep 'agent .*version 0\.' && ! cloister check | grep devel; }

first() {
	echo 0 >/proc/sys/kernel/printk_ratelimit # the log has every refused system call
	files >before
	sed -n 's/^PRETTY_NAME=//p' /etc/os-release
	claim "systemd is process 1, KVM and containerd are there" fresh
	claim "a guest that never runs is kept" keep_guest
	claim "the earlier packages are installed" dpkg -i old/cloister_*.deb old/cloister-guest_*.deb
	claim "the boot unit is enabled" systemctl is-enabled cloister-gc.service
	claim "the image is imported" ctr images import image.tar
	claim "check finds the host ready" cloister check
	claim "a container runs" start one
	claim "an exec answers" look one
	shim=$(shim_of one)

	claim "cloister alone is upgraded under the sandbox" upgrade_cloister
	claim "manual pages and completions are there" documented
	claim "a changed conffile is kept" grep '# changed' /etc/cloister/config.toml
	claim "the sandbox goes on with its shim" sh -c "pgrep -f 'containerd-shim-cloister.* -id one' | grep -x $shim"
	claim "an exec answers after the upgrade" look one
	claim "the new cloister reads the old record" reads_old_record
	claim "a new shim starts a guest from the old image, beside the old shim" start two
	claim "an exec answers in it" look two
	claim "the guest image is upgraded under both" dpkg -i new/cloister-guest_*.deb
	claim "ps and check tell that both run on the old image" both_old
	claim "the new check finds the host ready" cloister check
	claim "check says the version of the packaged agent" agent_version
	claim "check finds AppArmor once the configuration says auto" takes_auto
	claim "a container runs on the new image" start three
	claim "it has an AppArmor profile that is enforced" profiled
	claim "its image is current" shown three current
	claim "top draws three sandboxes on a terminal" top_on_terminal
	claim "the old sandbox ends" end one
	claim "its shim has ended" no_shim_of one
	claim "metrics are printed" sh -c 'cloister metrics | grep cloister_sandboxes_on_old_image'
	claim "no system call was refused that QEMU or virtiofsd needs" known_refused
	touch again
	sync
	echo b >/proc/sysrq-trigger # as a loss of power: nobody has cleaned up
	sleep 100
}

boot_unit() {
	systemctl show -p Id -p Result -p ExecMainStartTimestampMonotonic cloister-gc containerd
	systemctl show -p Result --value cloister-gc | same success || return 1
	gc=$(systemctl show -p ExecMainExitTimestampMonotonic --value cloister-gc)
	[ "$gc" -gt 0 ] && [ "$gc" -lt "$(systemctl show -p ExecMainStartTimestampMonotonic --value containerd)" ]
}
taken_back() { cloister ps --all && cloister ps --all --quiet | same "" && find /var/lib/cloister /run/cloister -name '*two*' | same ""; }
removed() { dpkg -r cloister cloister-guest && ! command -v cloister; }
purged() {
	dpkg --purge cloister cloister-guest
	ls /run/cloister/*/four/record.json
}
# folders_made: the purge before took them away, and nothing but systemd-tmpfiles has run since.
folders_made() {
	systemd-tmpfiles --cat-config | grep '^d /.*/cloister '
	stat -c '%a %U %n' /run/cloister /var/lib/cloister | paste -s -d , | same "711 root /run/cloister,700 root /var/lib/cloister"
}
# known_refused: the kernel's log names what the lists of system calls refuse. Allowed are those
# that programs do without: 425 is io_uring_setup, 435 clone3. glibc tries the latter for each
# thread, so a log without lines of QEMU has lost them. The attackers of `cloister prove` are
# cloister, or "/" where they run from a mount that has no place.
known_refused() {
	dmesg | sed -n 's/.* type=1326 .* exe=\("[^"]*"\) .* syscall=\([0-9]*\) .*/\1 \2/p' |
		grep -v -e '^"/usr/bin/cloister"' -e '^"/" ' | sort | uniq -c >refused
	cat refused
	grep -q qemu-system refused && ! grep -v -e ' 425$' -e ' 435$' refused >unknown
}
from_template() { start $1 && look $1 && cloister inspect $1 --output '{{.facts.start}}' | grep '^template '; }
no_unit() { ! systemctl list-unit-files --all | grep cloister && ! find /var/lib/systemd -name '*cloister*' | grep .; }
# as_shipped: nobody has changed the configuration of a fresh installation, which takes AppArmor.
as_shipped() { grep '^mac = "auto"' /etc/cloister/config.toml && cloister check | grep -i apparmor; }

second() {
	claim "a guest that never runs is kept again" keep_guest
	echo 0 >/proc/sys/kernel/printk_ratelimit
	claim "the boot unit has run before containerd" boot_unit
	claim "it has taken back what the loss of power left" taken_back
	for id in two three; do
		ctr task delete --force $id
		ctr container delete $id
	done >/dev/null 2>&1
	claim "a container runs after the start" start four
	claim "the packages are removed under it" removed
	claim "the sandbox goes on without the packages" look four
	claim "a purge keeps what keeps sandboxes apart while one runs" purged
	claim "the sandbox ends without the packages" end four
	claim "the packages are installed once more" dpkg -i new/cloister_*.deb new/cloister-guest_*.deb
	claim "systemd-tmpfiles has made their folders" folders_made
	claim "check finds AppArmor with the configuration as shipped" as_shipped
	claim "a container runs with it" start five
	claim "this one has an AppArmor profile that is enforced" profiled
	claim "no attack succeeds, each layer's control does" cloister prove
	claim "it ends" end five
	rm $no_templates
	claim "a template is built" cloister template build
	claim "a container runs from it" from_template six
	claim "it ends as well" end six
	claim "the packages are purged once more" dpkg --purge cloister cloister-guest
	claim "no process is left" sh -c '! pgrep -a "cloister|containerd-shim|qemu|virtiofsd"'
	claim "no AppArmor profile is left" sh -c '! grep cloister /sys/kernel/security/apparmor/profiles'
	claim "no mount is left" sh -c '! grep cloister /proc/mounts'
	files >after
	claim "no file is left" diff before after
	claim "no unit is left" no_unit
	claim "no unit of theirs has failed" sh -c '! systemctl --failed --no-legend | grep -e cloister -e containerd'
	claim "no system call was refused after the start either" known_refused
	echo "the end"
}

if [ -e again ]; then second; else first; fi
