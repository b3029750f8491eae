// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
)

// TestPointToPoint has CNI's ptp plugin make the pod's network: each pod a link of its own, routes
// by way of an address that is on none of its networks.
func TestPointToPoint(t *testing.T) {
	b := setup{network: pointToPoint}.start(t, host.New(t))
	p := b.run(t, &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: "ptp"},
		PortMappings: []*runtimeapi.PortMapping{{ContainerPort: 8080, HostPort: 18080}},
	})
	id := p.start(t, "server", nil, "sh", "-c", "mkdir /www; echo page >/www/f; exec httpd -f -p 8080 -h /www")
	answer, err := b.cri.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
	if err != nil {
		t.Fatal(err)
	}
	ip := answer.GetStatus().GetNetwork().GetIp()
	step(t, "ptp: inside", func(t *testing.T) {
		script := "cat /sys/class/net/eth0/mtu; ping -c 1 -W 5 10.86.0.1 >/dev/null; echo $?; ping -6 -c 1 -W 5 fd86::1 >/dev/null; echo $?"
		if got, _ := b.exec(t, id, script); got != "1400\n0\n0\n" {
			t.Errorf("MTU, ping and ping6 = %q", got)
		}
	})
	step(t, "ptp: from the host", func(t *testing.T) {
		for _, address := range []string{ip + "/8080", "10.86.0.1/18080"} {
			if got := b.Place.Run(t, "bash", "-c",
				"exec 3<>/dev/tcp/"+address+"; printf 'GET /f HTTP/1.0\\r\\n\\r\\n' >&3; tail -n 1 <&3"); got != "page\n" {
				t.Errorf("wget from %s = %q", address, got)
			}
		}
	})
	step(t, "ptp: nothing left", func(t *testing.T) {
		p.remove(t)
		nothingLeft(t, b)
		if got := b.Place.Run(t, "sh", "-c", "ip -o link | grep -c veth || true"); got != "0\n" {
			t.Errorf("%s links left", got)
		}
	})
}
