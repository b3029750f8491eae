// SPDX-License-Identifier: Apache-2.0

package images

import (
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"cloister/tests/testenv"
)

func TestBusyboxIsReproducible(t *testing.T) {
	program := testenv.NeedBusybox(t)
	var digests [2]v1.Hash
	for i := range digests {
		image, err := Busybox(t.Context(), program)
		if err != nil {
			t.Fatal(err)
		}
		if digests[i], err = image.Digest(); err != nil {
			t.Fatal(err)
		}
	}
	if digests[0] != digests[1] {
		t.Errorf("two images of %s have digests %s and %s", program, digests[0], digests[1])
	}
}

func TestSave(t *testing.T) {
	image, err := Busybox(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "busybox.tar")
	if err := Save(file, map[string]v1.Image{BusyboxName: image}); err != nil {
		t.Fatal(err)
	}
	loaded, err := tarball.ImageFromPath(file, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := loaded.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(config.Config.Cmd, " "); got != "sh" {
		t.Errorf("Cmd = %q, want sh", got)
	}
}

func TestServe(t *testing.T) {
	set, err := Set(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	registry, err := Serve(t.Context(), l, set)
	if err != nil {
		t.Fatal(err)
	}
	defer registry.Close()
	client := http.Client{Transport: trusting(t, registry.CA)}
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead,
		"https://"+l.Addr().String()+"/v2/containerd/busybox/manifests/1.36", nil)
	if err != nil {
		t.Fatal(err)
	}
	response, err := client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	response.Body.Close()
	if response.StatusCode != http.StatusOK {
		t.Errorf("HEAD %s = %s, want 200", request.URL, response.Status)
	}
}
