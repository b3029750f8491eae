// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"strconv"
	"strings"
	"testing"

	"cloister/labels"
	"cloister/labels/policy"
)

func plains() []string { return []string{byCrun, byRunc} }

// plainConfig is a configuration of class process with the OCI runtime that an id ends with. label
// is more of its table of labels.
func (l *lab) plainConfig(t *testing.T, id string, label ...string) string {
	t.Helper()
	name := id[strings.LastIndex(id, "-")+1:]
	path := map[string]string{"crun": "/usr/bin/crun", "runc": "/usr/sbin/runc"}[name]
	return l.config(t, id, "class = \"process\"\n", strings.Join(label, ""), "[process]\nruntime = \""+path+"\"\n"+byAnnotation)
}

// plainVolumes makes a container's folders and gives the flags that mount them: one of its own, one
// that all containers may write, one that all may read.
func (l *lab) plainVolumes(t *testing.T, id string) []string {
	t.Helper()
	l.sh(t, fmt.Sprintf(`mkdir -p /srv/plain/%[1]s/volume /srv/plain/all /srv/plain/ref
echo own >/srv/plain/%[1]s/volume/file; chmod 666 /srv/plain/%[1]s/volume/file
for d in all ref; do echo $d >/srv/plain/$d/file; done
chcon -t usr_t -l s0 /srv /srv/plain; chcon -R -t usr_t -l s0 /srv/plain/%[1]s /srv/plain/ref
[ "$(stat -c %%C /srv/plain/all)" = %[2]s ] || chcon -R -t usr_t -l s0 /srv/plain/all`, id, object(policy.RootfsType, "s0")))
	return []string{
		"--annotation", "io.cloister.labels.mounts=/volume=private;/all=shared;/ref=readonly",
		"--mount", "type=bind,src=/srv/plain/" + id + "/volume,dst=/volume,options=rbind",
		"--mount", "type=bind,src=/srv/plain/all,dst=/all,options=rbind",
		"--mount", "type=bind,src=/srv/plain/ref,dst=/ref,options=rbind",
	}
}

// runPlain starts a container of class process.
func (l *lab) runPlain(t *testing.T, id string) plainContainer {
	t.Helper()
	flags := append([]string{"--runtime-config-path", l.plainConfig(t, id)}, l.plainVolumes(t, id)...)
	if err := l.engine(t).run(id, flags...); err != nil {
		t.Fatal(err)
	}
	return l.plainOf(t, id)
}

// plainContainer is a running container of class process.
type plainContainer struct {
	id        string
	pid, shim int
	label     labels.Label
}

func (l *lab) plainOf(t *testing.T, id string) plainContainer {
	t.Helper()
	var pid string
	for line := range strings.Lines(l.sh(t, "ctr task ls")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id && fields[2] == "RUNNING" {
			pid = fields[1]
		}
	}
	out := strings.Fields(l.sh(t, "[ -z '"+pid+"' ] || ps -o label=,pid=,ppid= -p '"+pid+"'"))
	if len(out) != 3 {
		t.Fatalf("process 1 of %s: %q, want its label, pid and parent: %s\n%s",
			id, out, brief(denials(l.seen)), l.sh(t, "ctr task ls; cloister ps -a"))
	}
	c := plainContainer{id: id}
	var err error
	if c.label, err = labels.Parse(out[0]); err != nil {
		t.Fatal(err)
	}
	for i, n := range []*int{&c.pid, &c.shim} {
		if *n, err = strconv.Atoi(out[i+1]); err != nil {
			t.Fatal(err)
		}
	}
	return c
}

// level is the container's pair.
func (c plainContainer) level() string { return c.label.Range.String() }

// plains makes parties of plain containers.
func (w *world) plains(list []plainContainer) {
	for _, c := range list {
		w.words[c.id] = map[string]string{
			"dir": "/srv/plain/" + c.id, "state": "/run/cloister/default/" + c.id,
			"container.pid": strconv.Itoa(c.pid), "shim.pid": strconv.Itoa(c.shim),
		}
		w.levels[c.id] = c.level()
	}
}
