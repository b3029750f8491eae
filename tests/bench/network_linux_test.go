// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/network"
	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
)

// netImage has iperf3 beside busybox.
const netImage = "docker.io/cloister/iperf3:latest"

// worker is what each workload runs: iperf3, and an echo on port 5003.
const worker = `(while :; do nc -l -p 5003 -e cat; done) & exec iperf3 -s >/dev/null`

// flow is what a network carries between a workload and the host, over one bridge. The machine's
// processor time is that of all QEMU's threads; it tells paths apart also where other work takes
// the processors.
type flow struct {
	From    float64 `json:"from_mb_s"`
	To      float64 `json:"to_mb_s"`
	FromCPU float64 `json:"from_mb_cpu_s,omitempty"`
	ToCPU   float64 `json:"to_mb_cpu_s,omitempty"`
	RTT     float64 `json:"rtt_us"` // of one byte and its echo
}

// peer is a workload on the bridge.
type peer struct {
	name, address string
	stat          string // of QEMU's process; empty for runc
	samples       map[string]Samples
}

// TestBenchNetwork compares a sandbox's network with runc's on the same bridge and with that of a
// bare QEMU on a tap there.
func TestBenchNetwork(t *testing.T) {
	runs := needRuns(t)
	b := bed.New(t, host.Options{})
	iperf := iperfEntries(t)
	importNetImage(t, b, iperf)
	b.Place.Run(t, "sh", "-ec", "ip link add br0 type bridge; ip addr add 10.88.0.1/24 dev br0; ip link set br0 up")
	for i, runtime := range []string{bed.Cloister, bed.Runc} {
		id := []string{"ours", "runc"}[i]
		plug(t, b, id, fmt.Sprintf("10.88.0.%d/24", i+2))
		t.Cleanup(func() { b.Remove(t, id) })
		b.Must(t, "run", "--detach", "--runtime", runtime, "--with-ns", "network:/run/netns/"+id, netImage, id, "sh", "-c", worker)
	}
	peers := []*peer{
		{name: "cloister", address: "10.88.0.2", stat: b.Place.Path(fmt.Sprintf("/proc/%d/stat", b.Marked(t, "ours", "qemu-system")))},
		{name: "bare", address: "10.88.0.4", stat: fmt.Sprintf("/proc/%d/stat", bareNetwork(t, b, iperf))},
		{name: "runc", address: "10.88.0.3"},
	}
	prefer(t, b)
	for range max(3, runs/3) { // they take turns
		for _, p := range peers {
			p.measure(t, b)
		}
	}
	flows := map[string]flow{}
	for _, p := range peers {
		f := flow{
			p.samples["from"].Median(), p.samples["to"].Median(), p.samples["from cpu"].Median(),
			p.samples["to cpu"].Median(), p.samples["rtt"].Median(),
		}
		flows[p.name] = f
		t.Logf("%-10s %+v", p.name, f)
	}
	ours, bare := flows["cloister"], flows["bare"]
	over := map[string]float64{
		"from": Ratio(ours.From, bare.From), "to": Ratio(ours.To, bare.To), "rtt": Ratio(ours.RTT, bare.RTT),
		"from_cpu": Ratio(ours.FromCPU, bare.FromCPU), "to_cpu": Ratio(ours.ToCPU, bare.ToCPU),
	}
	t.Logf("over a bare QEMU: %v (aim: 0.8 of its throughput, in processor time as well)", over)
	merge(t, map[string]any{"network": flows, "network_over_bare": over})
}

// iperfEntries are iperf3 and the libraries that it names, where it looks for them.
func iperfEntries(t *testing.T) []images.Entry {
	t.Helper()
	entries, err := images.Program(t.Context(), testenv.NeedTool(t, "iperf3"))
	if err != nil {
		t.Fatal(err)
	}
	return entries
}

func importNetImage(t *testing.T, b *bed.Bed, iperf []images.Entry) {
	t.Helper()
	base, err := images.Busybox(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	img, err := images.New(base, iperf, v1.Config{Env: []string{"PATH=/bin:/usr/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.Dir, "iperf3.tar")
	if err := images.Save(file, map[string]v1.Image{netImage: img}); err != nil {
		t.Fatal(err)
	}
	b.Must(t, "images", "import", file)
}

// plug makes a namespace with a veth from the bridge.
func plug(t *testing.T, b *bed.Bed, name, address string) {
	t.Helper()
	b.Place.Run(t, "sh", "-ec", fmt.Sprintf(`ip netns add %[1]s; ip -n %[1]s link set lo up
ip link add v%[1]s master br0 type veth peer name eth0 netns %[1]s; ip link set v%[1]s up
ip -n %[1]s addr add %[2]s dev eth0; ip -n %[1]s link set eth0 up`, name, address))
}

// prefer has the bed's workloads get a processor before other work on the host.
func prefer(t *testing.T, b *bed.Bed) {
	t.Helper()
	group, err := cgroup.At("/" + b.Namespace)
	if err == nil {
		err = group.Set(cgroup.Limits{CPUShares: 16384})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// placed starts a program in a cgroup beside the bed's sandboxes: else the host's scheduler would
// not share out the processors evenly.
type placed struct{ *cgroup.Group }

func newPlaced(t *testing.T, b *bed.Bed, name string) placed {
	t.Helper()
	group, err := cgroup.At("/" + b.Namespace + "/" + name)
	if err == nil {
		err = group.Create(cgroup.Limits{})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Remove(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return placed{group}
}

func (p placed) Start(cmd *exec.Cmd) error {
	if err := cmd.Start(); err != nil {
		return err
	}
	return p.Add(cmd.Process.Pid)
}

// bareNetwork starts the guest's kernel with busybox alone and a tap on the bridge, and gives
// QEMU's pid.
func bareNetwork(t *testing.T, b *bed.Bed, iperf []images.Entry) int {
	t.Helper()
	image, err := guestimage.Open(testenv.NeedGuest(t))
	if err != nil {
		t.Fatal(err)
	}
	accel, _, err := qemu.DetectAccel("", qemu.Host{})
	if err != nil {
		t.Fatal(err)
	}
	ns, err := network.Open(fmt.Sprintf("/proc/%d/ns/net", b.Place.PID()))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	const mac = "02:00:00:00:00:04"
	tap, err := ns.NewTap(mac)
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	b.Place.Run(t, "sh", "-ec", "ip link set cloister0 master br0; ip link set cloister0 up")
	m := machine(t, image, accel)
	m.Initrd = bareImage(t, iperf)
	m.NICs = []vmm.NIC{{ID: "net0", MAC: mac}}
	p, err := qemu.Start(t.Context(), m, qemu.Options{Starter: newPlaced(t, b, "bare"), Dir: t.TempDir(), Taps: []*os.File{tap}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	if err := p.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
	return p.Pid()
}

// bareImage is an initial image of busybox, iperf3 and a first process.
func bareImage(t *testing.T, iperf []images.Entry) string {
	t.Helper()
	dir, name := t.TempDir(), filepath.Join(t.TempDir(), "initrd")
	program, err := os.ReadFile(testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmkdir -p /proc /dev /tmp\nmount -t proc proc /proc\nmount " +
		"-t devtmpfs dev /dev\n" +
		"ip link set lo up\nip link set eth0 up\nip addr add 10.88.0.4/24 dev eth0\nexport PATH=/bin:/usr/bin\n" + worker + "\n"
	entries := slices.Concat(iperf, []images.Entry{{Name: "bin/busybox", Data: program}, {Name: "init", Data: []byte(script)}})
	for _, e := range entries {
		file := filepath.Join(dir, e.Name)
		if e.Mode.IsDir() {
			err = os.MkdirAll(file, 0o755)
		} else if err = os.MkdirAll(filepath.Dir(file), 0o755); err == nil {
			err = os.WriteFile(file, e.Data, 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c",
		`cd "$1" && find . | cpio --quiet -o -H newc >"$2"`, "sh", dir, name).CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	return name
}

// measure watches one workload while the others do nothing.
func (p *peer) measure(t *testing.T, b *bed.Bed) {
	t.Helper()
	if p.samples == nil {
		p.samples = map[string]Samples{}
	}
	for name, option := range map[string]string{"from": "--reverse", "to": "--version4"} {
		before := processorTime(t, p.stat)
		bytes, seconds := iperf(t, b, p.address, option)
		p.samples[name] = append(p.samples[name], round(bytes/1e6/seconds))
		if p.stat != "" {
			p.samples[name+" cpu"] = append(p.samples[name+" cpu"], round(bytes/1e6/(processorTime(t, p.stat)-before)))
		}
	}
	conn := dial(t, b, p.address+":5003")
	defer conn.Close()
	buffer := make([]byte, 1)
	for range 200 {
		begin := time.Now()
		_, err := conn.Write(buffer)
		if err == nil {
			_, err = conn.Read(buffer)
		}
		if err != nil {
			t.Fatalf("echo from %s: %v", p.name, err)
		}
		p.samples["rtt"] = append(p.samples["rtt"], float64(time.Since(begin).Microseconds()))
	}
}

// iperf sends for some seconds, and gives what arrived in what time.
func iperf(t *testing.T, b *bed.Bed, address, option string) (bytes, seconds float64) {
	t.Helper()
	var report struct {
		End struct {
			Received struct{ Bytes, Seconds float64 } `json:"sum_received"`
		}
	}
	var out []byte
	// Between two clients the server does not listen for a moment.
	if !bed.Await(time.Minute, func() bool {
		out, _ = b.Place.Command(t.Context(), "iperf3", "--json", "--time", "3", "--client", address, option).Output()
		return json.Unmarshal(out, &report) == nil && report.End.Received.Bytes > 0
	}) {
		t.Fatalf("iperf3 --client %s %s: %s", address, option, out)
	}
	return report.End.Received.Bytes, report.End.Received.Seconds
}

// processorTime is what a process has used until now, in seconds; 0 for no process.
func processorTime(t *testing.T, stat string) float64 {
	t.Helper()
	if stat == "" {
		return 0
	}
	data, err := os.ReadFile(stat)
	if err != nil {
		t.Fatal(err)
	}
	// proc(5): utime and stime are fields 14 and 15, the name in brackets the second.
	fields := strings.Fields(string(data)[strings.LastIndexByte(string(data), ')')+1:])
	ticks := 0.0
	for _, field := range fields[11:13] {
		n, err := strconv.ParseFloat(field, 64)
		if err != nil {
			t.Fatalf("%s: %v", stat, err)
		}
		ticks += n
	}
	return ticks / 100 // USER_HZ
}

// dial connects to a workload, which may not listen yet.
func dial(t *testing.T, b *bed.Bed, address string) net.Conn {
	t.Helper()
	var conn net.Conn
	var err error
	if !bed.Await(time.Minute, func() bool {
		conn, err = b.Place.Dial(t.Context(), address)
		return err == nil
	}) {
		t.Fatalf("dial %s: %v", strings.TrimSpace(address), err)
	}
	return conn
}
