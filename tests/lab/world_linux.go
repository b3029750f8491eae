// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"strconv"
	"strings"

	"cloister/labels/policy"
	"cloister/tests/lab/wire"
)

// world is everything that is attacked: files and processes of each party, and the host's.
type world struct {
	m *machine
	// words are what stands for {name} in an attempt, by party.
	words map[string]map[string]string
	// levels are the parties'.
	levels  map[string]string
	victims int
}

// victim is what a holding process says of itself.
type victim struct {
	PID    int               `json:"pid"`
	Memfd  int               `json:"memfd"`
	Key    int               `json:"key"`
	Errors map[string]string `json:"errors"`
}

func object(kind, level string) string  { return "system_u:object_r:" + kind + ":" + level }
func process(kind, level string) string { return "system_u:system_r:" + kind + ":" + level }

// makeWorld makes it all in the machine.
func makeWorld(m *machine) (*world, error) {
	w := &world{m: m, words: map[string]map[string]string{}, levels: map[string]string{}}
	if err := w.host(); err != nil {
		return nil, err
	}
	for i, p := range parties() {
		if err := w.files(i, p); err != nil {
			return nil, fmt.Errorf("files of %s: %w", p.name, err)
		}
		words := map[string]string{"dir": "/usr/lab/" + p.name}
		for from := range domains() {
			// Keys of System V objects, which all processes share: ten for each party.
			if err := w.holder(words, from, p, 1000+10*i); err != nil {
				return nil, fmt.Errorf("%s of %s: %w", from, p.name, err)
			}
		}
		w.words[p.name], w.levels[p.name] = words, p.level
	}
	return w, w.engine()
}

// files are one party's.
func (w *world) files(number int, p party) error {
	dir := "/usr/lab/" + p.name
	page := []byte(strings.Repeat("secret of "+p.name+"\n", 512))
	of := func(path, kind string) wire.Write {
		return wire.Write{Path: dir + path, Data: page, Mode: 0o777, Context: object(kind, p.level)}
	}
	folder := func(path, kind, level string) wire.Write {
		return wire.Write{Path: dir + path, Folder: true, Mode: 0o777, Context: object(kind, level)}
	}
	loop := "/dev/loop" + strconv.Itoa(number)
	list := []wire.Write{
		folder("", "usr_t", "s0"),
		of("/image", policy.ImageType), of("/log", policy.RunType), of("/record.json", policy.RunType),
		folder("/rootfs", policy.RootfsType, p.level), of("/rootfs/file", policy.RootfsType),
		of("/rootfs-top", policy.RootfsType), of("/rootfs-map", policy.RootfsType),
		{Path: dir + "/rootfs-link", Link: "image", Context: object(policy.RootfsType, p.level)},
		folder("/volume", policy.ContainerFileType, p.level), of("/volume/file", policy.ContainerFileType),
		of("/volume-top", policy.ContainerFileType),
		{Path: dir + "/backing", Mode: 0o600, Size: 1 << 20, Context: object("usr_t", "s0")},
		{Path: dir + "/disk", Device: [2]uint32{7, uint32(number)}, Context: object(policy.ImageType, p.level)},
	}
	if err := w.m.write(list...); err != nil {
		return err
	}
	return w.do("busybox", "losetup", loop, dir+"/backing")
}

// host is what belongs to neither.
func (w *world) host() error {
	secret := []byte("secret of the host\n")
	page := []byte(strings.Repeat("shared\n", 1024))
	list := []wire.Write{
		{Path: "/run/lab", Folder: true, Context: object("var_run_t", "s0")},
		{Path: "/usr/lab", Folder: true, Context: object("usr_t", "s0")},
		{Path: "/usr/lab/content", Data: page, Mode: 0o666, Context: object(policy.ContentType, "s0")},
		{Path: "/usr/lab/off.img", Data: page, Mode: 0o666, Context: object("virt_image_t", "s0")},
		{Path: "/home/lab", Folder: true, Context: object("user_home_dir_t", "s0")},
		{Path: "/home/lab/secret", Data: secret, Context: object("user_home_t", "s0")},
		{Path: "/var/lib/cloister", Folder: true, Context: object(policy.VarLibType, "s0")},
		{Path: "/var/lib/cloister/mcs", Folder: true, Context: object(policy.VarLibType, "s0")},
		{Path: "/var/lib/cloister/mcs/registry", Data: secret, Context: object(policy.VarLibType, "s0")},
		{Path: "/usr/lab/home", Folder: true, Context: object("user_home_dir_t", "s0")},
		{Path: "/usr/lab/homefile", Data: page, Mode: 0o666, Context: object("user_home_t", "s0")},
		{Path: "/usr/lab/registry", Data: page, Mode: 0o666, Context: object(policy.VarLibType, "s0")},
		{Path: "/usr/lab/journal", Folder: true, Context: object(policy.VarLibType, "s0")},
		{Path: "/run/cloister", Folder: true, Context: object(policy.RunType, "s0")},
		{Path: "/var/lib/lab", Folder: true, Context: object("var_lib_t", "s0")},
		{Path: "/var/lib/lab/left", Folder: true, Context: object(policy.RootfsType, levelA)},
		{Path: "/var/lib/lab/left/file", Data: secret, Context: object(policy.RootfsType, levelA)},
		{Path: "/var/lib/containerd", Folder: true, Context: object("var_lib_t", "s0")},
		{Path: "/usr/lab/loop7", Size: 1 << 20, Mode: 0o600, Context: object("usr_t", "s0")},
		{Path: "/sys/fs/cgroup/labb", Folder: true},
	}
	if err := w.m.write(list...); err != nil {
		return err
	}
	return errors.Join(w.do("busybox", "losetup", "/dev/loop7", "/usr/lab/loop7"), w.do("/usr/sbin/ip", "link", "set", "lo", "up"))
}

// do runs a program of the machine that must succeed.
func (w *world) do(name string, args ...string) error {
	if !strings.HasPrefix(name, "/") {
		name = "/bin/" + name
	}
	answer, err := w.m.run(wire.Run{Argv: append([]string{name}, args...)})
	if err == nil && answer.Exit != 0 {
		err = fmt.Errorf("%s %q: exit %d: %s", name, args, answer.Exit, answer.Out)
	}
	return err
}

// holder starts a process of one party in one domain, and takes down what it has.
func (w *world) holder(words map[string]string, from string, p party, number int) error {
	name := "lab-" + from + "-" + p.name
	number += map[string]int{"qemu": 1, "virtiofsd": 2, "container": 3}[from]
	v, err := w.hold(domains()[from], p.level, name, number)
	if err != nil {
		return err
	}
	for word, value := range map[string]int{"pid": v.PID, "memfd": v.Memfd, "key": v.Key, "number": number} {
		words[from+"."+word] = strconv.Itoa(value)
	}
	words[from+".name"] = "@" + name
	if from != "qemu" {
		return nil
	}
	// As the shim does before a guest runs: not every policy makes memory at its maker's level.
	return w.do("/usr/bin/chcon", "-l", p.level, fmt.Sprintf("/proc/%d/fd/%d", v.PID, v.Memfd))
}

func (w *world) hold(d domain, level, name string, number int) (victim, error) {
	run := wire.Run{Argv: []string{d.probe, "hold", name, strconv.Itoa(number)}, Entry: entry(d, level), Stay: true}
	return w.staying(run)
}

func (w *world) staying(run wire.Run) (victim, error) {
	answer, err := w.m.run(run)
	if err != nil {
		return victim{}, err
	}
	var v victim
	if err := json.Unmarshal([]byte(answer.Out), &v); err != nil {
		return victim{}, fmt.Errorf("a holding process said %q: %w", answer.Out, err)
	}
	return v, nil
}

// end ends the parties' processes: for cloister they are tenants at one pair.
func (w *world) end() error {
	var errs []error
	for _, p := range parties() {
		for from := range domains() {
			pid, err := strconv.Atoi(w.words[p.name][from+".pid"])
			if err == nil {
				_, err = w.m.ask(wire.Request{End: &wire.End{PID: pid}}, longAsk)
			}
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// engine starts an engine's and a shim's stand-in, with their sockets.
func (w *world) engine() error {
	for name, argv := range map[string][]string{
		"engine": {"/lab/probe/probe-plain", "hold", "lab-engine", "2001", "/run/lab-engine.sock"},
		"shim":   {"/lab/probe/probe-shim", "hold", "lab-shim", "2002"},
	} {
		v, err := w.staying(wire.Run{Argv: argv, Stay: true})
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		for _, p := range parties() {
			w.words[p.name][name+".pid"] = strconv.Itoa(v.PID)
			w.words[p.name][name+".name"] = "@lab-" + name
		}
	}
	return nil
}

// entry is how a program gets into a domain at a level. A container's runtime gives it its own file
// for output.
func entry(d domain, level string) *wire.Entry {
	output := policy.RunType
	if d.name == "container" {
		output = policy.ContainerFileType
	}
	return &wire.Entry{Through: d.through, Label: process(d.kind, level), Output: object(output, level)}
}

// try runs one operation from one domain by one party against another, and returns the answer.
func (w *world) try(a attempt, operation, by, against string) (wire.Answer, error) {
	words := maps.Clone(w.words[against])
	level, target := w.levels[by], w.levels[against]
	if contains(operation, "{fresh}") {
		kind, folder := strings.CutSuffix(a.fresh, "/")
		w.victims++
		words["fresh"] = "/usr/lab/fresh" + strconv.Itoa(w.victims)
		if err := w.m.write(wire.Write{Path: words["fresh"], Folder: folder, Mode: 0o777, Context: object(kind, target)}); err != nil {
			return wire.Answer{}, err
		}
	}
	ended := 0
	if contains(operation, "{victim") {
		w.victims++
		v, err := w.hold(domains()[a.from], target, "lab-victim-"+strconv.Itoa(w.victims), 3000+w.victims)
		if err != nil {
			return wire.Answer{}, err
		}
		words["victim"], words["victim.number"], ended = strconv.Itoa(v.PID), strconv.Itoa(3000+w.victims), v.PID
	}
	d := domains()[a.from]
	run := wire.Run{Argv: append([]string{d.probe}, strings.Fields(expand(operation, words))...), Entry: entry(d, level), Seconds: 30}
	run.Entry.Open, run.Entry.Send = handedOn(a.open, words), handedOn(a.send, words)
	answer, err := w.m.run(run)
	if ended != 0 {
		if _, failed := w.m.ask(wire.Request{End: &wire.End{PID: ended}}, longAsk); failed != nil {
			err = errors.Join(err, failed)
		}
	}
	return answer, err
}

// handedOn reads flags, a colon and a path.
func handedOn(text string, words map[string]string) []wire.File {
	if text == "" {
		return nil
	}
	flags, path, _ := strings.Cut(text, ":")
	return []wire.File{{Path: expand(path, words), Flags: flags}}
}

// expand puts words in the place of their names.
func expand(text string, words map[string]string) string {
	for key, value := range words {
		text = strings.ReplaceAll(text, "{"+key+"}", value)
	}
	return text
}
