// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"cloister/tests/testenv"
)

// gitApp works on a repository of 5,000 files, of which git looks at 500 by each of ten threads.
func gitApp() app {
	return app{
		name: "git",
		prepare: func(t *testing.T, g *ground, data string) {
			g.inRoot(t, data, `
export HOME=/tmp GIT_AUTHOR_DATE='2026-01-01T00:00:00Z' GIT_COMMITTER_DATE='2026-01-01T00:00:00Z'
git config --global user.name someone; git config --global user.email someone@example.org
git init --quiet --initial-branch=main /mnt/repo; cd /mnt/repo
for d in $(seq 50); do mkdir dir$d; (cd dir$d; seq $((d * 1000)) $((d * 1000 + 99)) |
	split --lines=1 --suffix-length=3 --numeric-suffixes - file); done
git add .; git commit --quiet --message=first`)
		},
		use: func(_ *testing.T, c *container) string {
			return c.sh(`
export HOME=/tmp GIT_AUTHOR_DATE='2026-01-02T00:00:00Z' GIT_COMMITTER_DATE='2026-01-02T00:00:00Z'
git config --global user.name someone; git config --global user.email someone@example.org; git config --global --add safe.directory '*'
git config --global core.preloadIndex true; git config --global grep.threads 10; git config --global pack.threads 10
cd /data/repo
git checkout --quiet -b other
for d in 1 2 3 4 5 6 7 8 9 10; do echo changed >dir$d/file042; done
git status --porcelain | wc -l
git grep --count 1042 | head -n 3
git commit --quiet --all --message=second
git checkout --quiet main; git merge --quiet --no-ff --message=merge other
git repack -adq; git fsck --no-progress
git rev-parse 'HEAD^{tree}'; git log --oneline | wc -l; git ls-files | wc -l`)
		},
		want: "10\ndir11/file042:1\ndir21/file042:1\ndir31/file042:1\n4fe4cb6e8b86b5401c13879eb4d6d360da96cd30\n3\n5000",
	}
}

// aptApp installs and removes a package of a repository of its own.
func aptApp() app {
	return app{
		name: "apt",
		use: func(_ *testing.T, c *container) string {
			return c.sh(`
mkdir -p /repo /build/DEBIAN /build/usr/bin /build/usr/share/hello /etc/apt/sources.list.d
printf 'Package: %s\nVersion: 1.0\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: says hello\n' \
	hello-apps >/build/DEBIAN/control
printf '#!/bin/sh\necho configured >/var/lib/hello\n' >/build/DEBIAN/postinst; chmod 755 /build/DEBIAN/postinst
printf '#!/bin/sh\necho hello\n' >/build/usr/bin/hello-apps; chmod 755 /build/usr/bin/hello-apps
for i in $(seq 100); do echo $i >/build/usr/share/hello/$i; done
dpkg-deb --root-owner-group --build /build /repo/hello.deb >/dev/null
(cat /build/DEBIAN/control; echo Filename: ./hello.deb; echo Size: $(stat --format=%s /repo/hello.deb)
	echo SHA256: $(sha256sum /repo/hello.deb | cut -d' ' -f1)) >/repo/Packages
rm -f /etc/apt/sources.list; echo 'deb [trusted=yes] file:/repo ./' >/etc/apt/sources.list.d/own.list
apt-get -qq update
apt-get -qq -y install hello-apps >/dev/null 2>/tmp/err || { cat /tmp/err; exit 1; }
hello-apps; cat /var/lib/hello; dpkg --list hello-apps | tail -n 1 | cut -c1-2; dpkg --verify hello-apps
apt-get -qq -y purge hello-apps >/dev/null 2>/tmp/err || { cat /tmp/err; exit 1; }
ls /usr/share/hello 2>/dev/null | wc -l; dpkg --audit`)
		},
		want: "hello\nconfigured\nii\n0",
	}
}

// copyApp copies a large tree from a volume to the root and back.
func copyApp() app {
	return app{
		name: "rsync-tar",
		prepare: func(t *testing.T, g *ground, data string) {
			g.inRoot(t, data, `
mkdir /mnt/tree; cd /mnt/tree
for d in $(seq 20); do mkdir -p deep/dir$d/empty; (cd deep/dir$d; seq 100 | split --lines=1 --suffix-length=3 - f); done
head -c 20000000 /dev/zero | openssl enc -aes-128-ctr -pass pass:x -nosalt 2>/dev/null >large || seq 3000000 >large
truncate --size=200M sparse; ln -s large link; ln large hard; chown -R 2000:2000 deep/dir1; chmod 4750 deep/dir1/faaa
	touch --date=2001-02-03T04:05:06Z deep/dir2/faab`)
		},
		use: func(_ *testing.T, c *container) string {
			return c.sh(`
rsync --archive --hard-links --sparse /data/tree/ /root/tree/
rsync --archive --hard-links --sparse --itemize-changes --dry-run /data/tree/ /root/tree/
tar --create --sparse --directory=/root tree | tar --extract --directory=/data/ --transform=s/^tree/back/
rsync --archive --hard-links --checksum --itemize-changes --dry-run --exclude=sparse /data/tree/ /data/back/
find /data/back | wc -l; stat --format='%u:%g %a' /data/back/deep/dir1/faaa; stat --format=%h /data/back/hard
	date --utc --iso-8601=seconds --reference=/data/back/deep/dir2/faab
[ $(du --block-size=1M /data/back/sparse | cut -f1) -lt 100 ] && echo sparse`)
		},
		want: "2046\n2000:2000 4750\n2\n2001-02-03T04:05:06+00:00\nsparse",
	}
}

// buildC is make with four jobs, of twenty files.
func buildC() app {
	return app{
		name: "build-c",
		use: func(_ *testing.T, c *container) string {
			return c.sh(`
mkdir /data/c; cd /data/c
for i in $(seq 20); do
	printf '#include <stdio.h>\nint f%d(int n) { char b[64]; return snprintf(b, sizeof b, "%%d", n) + %d; }\n' $i $i >f$i.c
done
(seq 20 | sed 's/.*/int f&(int);/'; echo '#include <stdio.h>'; echo 'int main(void) { int n = 0;'; seq 20 | sed 's/.*/n += f&(7);/'
	echo 'printf("%d", n); return 0; }') >main.c
printf 'OBJECTS = main.o %s\nprogram: $(OBJECTS)\n\tgcc -o $@ $(OBJECTS)\n%%.o: %%.c\n\tgcc -O1 -c -o $@ $<\n' "$(seq 20 |
	sed 's/.*/f&.o/' | tr '\n' ' ')" >Makefile
make --silent --jobs=4; ./program; echo
touch f3.c; make --jobs=4 | wc -l; make --question && echo done`)
		},
		want: "230\n2\ndone",
	}
}

// buildGo links a program with a cache of the standard library that is there.
func buildGo() app {
	const source = "package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello from\", %q) }\n"
	return app{
		name: "build-go",
		options: func(string) []string {
			return []string{"--mount", fmt.Sprintf("type=bind,src=%s,dst=%[1]s,options=rbind:ro",
				runtime.GOROOT())} //nolint:staticcheck // of the go that runs this
		},
		prepare: func(t *testing.T, _ *ground, data string) {
			for name, text := range map[string]string{"go.mod": "module hello\n\ngo 1.26\n", "main.go": fmt.Sprintf(source, "outside")} {
				if err := os.WriteFile(filepath.Join(data, name), []byte(text), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "go"), "build", "-o", os.DevNull, ".")
			cmd.Dir, cmd.Env = data, append(os.Environ(), goEnvironment(data)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			if err := os.WriteFile(filepath.Join(data, "main.go"), fmt.Appendf(nil, source, "the container"), 0o644); err != nil {
				t.Fatal(err)
			}
		},
		use: func(_ *testing.T, c *container) string {
			return c.sh(`cd /data; export HOME=/tmp GOCACHE=/data/cache GOFLAGS=-trimpath GOTOOLCHAIN=local CGO_ENABLED=0
` + runtime.GOROOT() + `/bin/go build -o /tmp/hello . && /tmp/hello`) //nolint:staticcheck // see above
		},
		want: "hello from the container",
	}
}

func goEnvironment(data string) []string {
	return []string{"GOCACHE=" + data + "/cache", "GOFLAGS=-trimpath", "GOTOOLCHAIN=local", "CGO_ENABLED=0"}
}

// inRoot runs a script on the host with the programs of the root: the folder is /mnt there.
func (g *ground) inRoot(t *testing.T, folder, script string) {
	t.Helper()
	g.Place.Run(t, "unshare", "--mount", "sh", "-ec", fmt.Sprintf(`
mount --bind %q %q/mnt
mount -t tmpfs tmp %[2]q/tmp
exec chroot %[2]q sh -ec "$1"`, folder, g.root), "sh", script)
}

func tools() []app { return []app{gitApp(), aptApp(), copyApp(), buildC(), buildGo()} }

func all() []app { return slices.Concat(databases(), tools(), servers(), engines()) }
