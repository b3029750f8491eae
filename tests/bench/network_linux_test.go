// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloister/sandbox/network"
	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
	"cloister/vmm"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
)

// flow is what a network carries between a workload and the host, over one bridge.
type flow struct {
	FromMBs float64 `json:"from_guest_mb_s"`
	ToMBs   float64 `json:"to_guest_mb_s"`
	RTTus   float64 `json:"rtt_us"` // of one byte and its echo
}

// worker is what each workload runs: it sends to its port of the host's whenever somebody listens there, takes what is sent
// to 5002 and gives back what is sent to 5003. The same busybox does it everywhere.
const worker = `(while :; do nc -l -p 5002 >/dev/null; done) & (while :; do nc -l -p 5003 -e cat; done) &
while :; do nc 10.88.0.1 %d </dev/zero 2>/dev/null || sleep 0.2; done`

// TestBenchNetwork compares a sandbox's network with runc's on the same bridge and with that of a bare QEMU on a tap there.
func TestBenchNetwork(t *testing.T) {
	runs := needRuns(t)
	b := bed.New(t, host.Options{})
	b.Place.Run(t, "sh", "-ec", "ip link add br0 type bridge; ip addr add 10.88.0.1/24 dev br0; ip link set br0 up")
	theirs := *b
	theirs.Runtime = bed.Runc
	plug(t, b, "ours", "10.88.0.2/24")
	b.Start(t, "ours", []string{"--with-ns", "network:/run/netns/ours"}, "sh", "-c", fmt.Sprintf(worker, 6002))
	plug(t, b, "runc", "10.88.0.3/24")
	theirs.Start(t, "runc", []string{"--with-ns", "network:/run/netns/runc"}, "sh", "-c", fmt.Sprintf(worker, 6003))
	bareNetwork(t, b, 6004)

	samples := map[string]Samples{}
	for range max(2, runs/3) {
		for i, name := range []string{"cloister", "runc", "bare"} {
			f := measure(t, b, fmt.Sprintf("10.88.0.%d", i+2), 6002+i)
			samples[name+" from"] = append(samples[name+" from"], f.FromMBs)
			samples[name+" to"] = append(samples[name+" to"], f.ToMBs)
			samples[name+" rtt"] = append(samples[name+" rtt"], f.RTTus)
		}
	}
	flows := map[string]flow{}
	for _, name := range []string{"cloister", "runc", "bare"} {
		f := flow{samples[name+" from"].Median(), samples[name+" to"].Median(), samples[name+" rtt"].Median()}
		flows[name] = f
		t.Logf("%-10s from %8.1f MB/s, to %8.1f MB/s, round trip %8.1f us", name, f.FromMBs, f.ToMBs, f.RTTus)
	}
	ours, bare := flows["cloister"], flows["bare"]
	over := map[string]float64{"from": ratio(ours.FromMBs, bare.FromMBs), "to": ratio(ours.ToMBs, bare.ToMBs), "rtt": ratio(ours.RTTus, bare.RTTus)}
	t.Logf("over a bare QEMU: %v (aim: 0.8 of its throughput)", over)
	merge(t, map[string]any{"network": flows, "network_over_bare": over})
}

// plug makes a namespace with a veth from the bridge.
func plug(t *testing.T, b *bed.Bed, name, address string) {
	t.Helper()
	b.Place.Run(t, "sh", "-ec", fmt.Sprintf(`ip netns add %[1]s; ip -n %[1]s link set lo up
ip link add v%[1]s master br0 type veth peer name eth0 netns %[1]s; ip link set v%[1]s up
ip -n %[1]s addr add %[2]s dev eth0; ip -n %[1]s link set eth0 up`, name, address))
}

// bareNetwork starts the guest's kernel with busybox alone and a tap on the bridge.
func bareNetwork(t *testing.T, b *bed.Bed, port int) {
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
	m.Initrd = bareImage(t, port)
	m.NICs = []vmm.NIC{{ID: "net0", MAC: mac}}
	p, err := qemu.Start(t.Context(), m, qemu.Options{Starter: plain{}, Dir: t.TempDir(), Taps: []*os.File{tap}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = p.Kill() })
	if err := p.Continue(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// bareImage is an initial image of busybox and a first process.
func bareImage(t *testing.T, port int) string {
	t.Helper()
	dir, name := t.TempDir(), filepath.Join(t.TempDir(), "initrd")
	program, err := os.ReadFile(testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	script := "#!/bin/busybox sh\n/bin/busybox --install -s /bin\nmkdir -p /proc /dev\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev\n" +
		"ip link set lo up\nip link set eth0 up\nip addr add 10.88.0.4/24 dev eth0\n" + fmt.Sprintf(worker, port) + "\n"
	for file, data := range map[string][]byte{"bin/busybox": program, "init": []byte(script)} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, file)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.CommandContext(t.Context(), "sh", "-c", `cd "$1" && find . | cpio --quiet -o -H newc >"$2"`, "sh", dir, name).CombinedOutput(); err != nil {
		t.Fatalf("cpio: %v\n%s", err, out)
	}
	return name
}

// window is how long a throughput is watched.
const window = 5 * time.Second

// measure watches one workload.
func measure(t *testing.T, b *bed.Bed, address string, port int) flow {
	t.Helper()
	var f flow
	l := b.Place.Listen(t, fmt.Sprintf("10.88.0.1:%d", port))
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	buffer := make([]byte, 256<<10)
	f.FromMBs = carried(conn, func() (int, error) { return conn.Read(buffer) })
	_ = l.Close()
	conn = dial(t, b, address+":5002")
	f.ToMBs = carried(conn, func() (int, error) { return conn.Write(buffer) })
	conn = dial(t, b, address+":5003")
	defer conn.Close()
	var all Samples
	for range 200 {
		begin := time.Now()
		_, err := conn.Write([]byte{'x'})
		if err == nil {
			_, err = conn.Read(buffer[:1])
		}
		if err != nil {
			t.Fatalf("echo from %s: %v", address, err)
		}
		all = append(all, float64(time.Since(begin).Microseconds()))
	}
	f.RTTus = all.Median()
	return f
}

// carried gives how many MB move in a second, and closes the connection.
func carried(conn net.Conn, move func() (int, error)) float64 {
	begin, sum := time.Now(), 0
	_ = conn.SetDeadline(begin.Add(window))
	for {
		n, err := move()
		sum += n
		if err != nil {
			_ = conn.Close()
			return round(float64(sum) / 1e6 / time.Since(begin).Seconds())
		}
	}
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
