// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"
)

// plainProfiles runs plain containers under AppArmor, by each OCI runtime: each sandbox has a
// profile of its own, in which its programs work and which keeps it from the other's processes.
// Both share the host's pids and users, so that nothing else does.
func plainProfiles(t *testing.T, l *lab) {
	t.Helper()
	l.seen = nil
	profiles := map[string]string{}
	pids := map[string]string{}
	for _, id := range plains() {
		if err := l.engine(t).run(id, "--runtime-config-path", l.plainConfig(t, id), "--with-ns", "pid:/proc/1/ns/pid"); err != nil {
			t.Fatal(err)
		}
		pids[id] = strings.TrimSpace(l.sh(t, pidOf(id)))
		profiles[id] = l.profileOf(t, id)
		own, found := strings.CutSuffix(profiles[id], "//container (enforce)")
		if !found || !strings.HasPrefix(own, "cloister-c") {
			t.Errorf("process 1 of %s runs in %s, want its sandbox's profile", id, profiles[id])
		}
		if told := l.sh(t, "cloister ps; cloister inspect "+id); !strings.Contains(told, own) {
			t.Errorf("cloister ps and inspect do not show %s:\n%s", own, told)
		}
	}
	if profiles[byCrun] == profiles[byRunc] {
		t.Errorf("both containers run in %s", profiles[byCrun])
	}
	for i, id := range plains() {
		other := pids[plains()[1-i]]
		l.wantAll(t, id, true, []string{
			"[ \"$(cat /proc/self/attr/apparmor/current)\" = \"" + profiles[id] + "\" ]",
			"mkdir /made && echo x >/made/x && ln -s x /made/l && mv /made/x /made/y && chown 7:7 /made/y && rm -r /made",
			"mkfifo /fifo && (echo x >/fifo & cat /fifo)",
			"cat /proc/meminfo /proc/sys/net/core/somaxconn /proc/net/dev && df && ls -R /sys/class",
			"echo x >/dev/null && head -c 4 /dev/urandom >/dev/null && echo 5 >/proc/self/oom_score_adj",
			"sleep 60 & kill -0 $! && kill $!",
			"cat /proc/" + pids[id] + "/environ",
		})
		denied := profileDenials(l.seen)
		l.wantAll(t, id, false, []string{
			"kill -0 " + other, "kill -KILL " + other, "cat /proc/" + other + "/environ", "ls /proc/" + other + "/root/",
			"mount -t tmpfs none /mnt", "echo changeprofile unconfined >/proc/self/attr/apparmor/current",
			"echo 1 >/proc/sys/vm/drop_caches", "echo h >/proc/sysrq-trigger", "cat /sys/kernel/security/lsm",
		})
		if len(denied) > 0 {
			t.Errorf("%s: denied what should work: %q", id, denied)
		}
		// The profile stops these, and nothing else before it.
		all := strings.Join(profileDenials(l.seen), "\n")
		for _, operation := range []string{"signal", "ptrace", "change_profile"} {
			if !strings.Contains(all, `operation="`+operation+`"`) {
				t.Errorf("%s: no %s was denied:\n%s", id, operation, all)
			}
		}
		l.seen = nil
	}
	l.chosenProfiles(t)
	for _, id := range plains() {
		if err := l.made.remove(id); err != nil {
			t.Error(err)
		}
	}
	for _, id := range plains() {
		l.noProfileOf(t, id)
	}
}

// pidOf is a script that prints a container's process 1.
func pidOf(id string) string { return "ctr task ls | awk '$1 == \"" + id + "\" { print $2 }'" }

// profileOf is what a container's process 1 runs in, with its mode.
func (l *lab) profileOf(t *testing.T, id string) string {
	t.Helper()
	return strings.Trim(l.sh(t, "cat /proc/$("+pidOf(id)+")/attr/apparmor/current"), "\x00\n")
}

// chosenProfiles asks for other profiles than the sandbox's: to run without one is refused, unless
// the configuration has it confined.
func (l *lab) chosenProfiles(t *testing.T) {
	t.Helper()
	for _, tt := range []struct{ id, profile, label, says string }{
		{"unconfined-crun", "unconfined", "", "--privileged"},
		{"mine-runc", "mine", "", "mac = \"none\""},
		{"confined-crun", "unconfined", "engine_disable = \"confine\"\n", ""},
	} {
		err := l.made.run(tt.id, "--runtime-config-path", l.plainConfig(t, tt.id, tt.label), "--apparmor-profile", tt.profile)
		switch {
		case tt.says == "" && err == nil:
			if current := l.profileOf(t, tt.id); !strings.HasPrefix(current, "cloister-c") {
				t.Errorf("%s runs in %s", tt.id, current)
			}
			if err := l.made.remove(tt.id); err != nil {
				t.Error(err)
			}
		case tt.says == "" || err == nil || !strings.Contains(err.Error(), tt.says) ||
			!strings.Contains(err.Error(), "process.apparmorProfile"):
			t.Errorf("profile %s with %q: %v, want %q", tt.profile, tt.label, err, tt.says)
		default:
			l.sh(t, "ctr container delete "+tt.id)
		}
		l.nothingLeft(t, tt.id, "/var/lib/cloister")
	}
}
