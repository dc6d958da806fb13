// Package dist tests what is given to people: the archives, the Debian package, the image.
package dist

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/mediad/mediad/e2e/machine"
)

const release = "1.2.3-test"

// out is where dist/build has put all; context is the folder around it that the Dockerfile wants.
var context, out string

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	var err error
	if context, err = os.MkdirTemp("", "mediad-dist-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(context)
	out = filepath.Join(context, "dist", "out")
	build := exec.Command("./build")
	build.Env = append(os.Environ(), "VERSION=v"+release, "OUT="+out)
	if text, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "dist/build: %v\n%s", err, text)
		return 1
	}
	return m.Run()
}

func archive(arch string) string { return "mediad_v" + release + "_linux_" + arch }

// A person is who has got something and does with it what there is to do, on a machine of their own.
type person struct {
	t       *testing.T
	machine *machine.Machine
}

func someone(t *testing.T) person {
	t.Helper()
	return person{t, machine.New(t, t.TempDir(), context)}
}

// does runs a command, which must go well, and returns what it prints.
func (p person) does(line string, a ...any) string {
	p.t.Helper()
	line = fmt.Sprintf(line, a...)
	text, err := p.machine.Command(line).CombinedOutput()
	if err != nil {
		p.t.Fatalf("%s: %v\n%s", line, err, text)
	}
	return string(text)
}

// sees runs a command until what it prints has some text.
func (p person) sees(want, line string, a ...any) {
	p.t.Helper()
	line = fmt.Sprintf(line, a...)
	var text []byte
	var err error
	for began := time.Now(); time.Since(began) < 30*time.Second; time.Sleep(100 * time.Millisecond) {
		if text, err = p.machine.Command(line).CombinedOutput(); err == nil && strings.Contains(string(text), want) {
			return
		}
	}
	p.t.Fatalf("%s: %v, after 30 s it prints\n%s\nwanted is %q", line, err, text, want)
}

// starts starts what runs until the test ends.
func (p person) starts(line string) {
	p.t.Helper()
	p.machine.Start(p.t, p.machine.Command(line))
}

const healthz = `curl -sf http://localhost:8080/healthz`

func TestChecksums(t *testing.T) {
	p := someone(t)
	text := p.does("cd %s && sha256sum --strict -c SHA256SUMS", out)
	if n := strings.Count(text, ": OK"); n != 4 {
		t.Errorf("%d files are right, want 4:\n%s", n, text)
	}
	files, err := filepath.Glob(filepath.Join(out, "mediad_*"))
	if err != nil || len(files) != 4 {
		t.Errorf("there are %q, want two archives and two packages", files)
	}
}

// TestArchive_amd64 unpacks the archive and runs what is in it, where it is.
func TestArchive_amd64(t *testing.T) {
	p := someone(t)
	p.does("tar --strip-components=1 -xzf %s/%s.tar.gz", out, archive("amd64"))
	if got := p.does("bin/mediad version"); !strings.HasPrefix(got, "mediad v"+release+" ") || !strings.HasSuffix(got, " linux/amd64\n") {
		t.Errorf("it is %q", got)
	}
	for _, binary := range []string{"bin/mediad", "lib/mediad/plugins/*"} {
		if got := p.does("ldd %s 2>&1 || true", binary); strings.Contains(got, "=>") {
			t.Errorf("%s is not static: %s", binary, got)
		}
	}
	p.does("bin/mediad check")
	p.starts("exec bin/mediad run")
	p.sees(`"ok"`, healthz)
	p.sees("h264", "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 rtmp://localhost/live/demo")
	p.does("test -s share/doc/mediad/README.md && test -s share/doc/mediad/docs/first-stream.md && test -s share/doc/mediad/LICENSE")
}

// TestArchive_plugins runs the plugins of the archive in its daemon.
func TestArchive_plugins(t *testing.T) {
	p := someone(t)
	p.does("tar --strip-components=1 -xzf %s/%s.tar.gz", out, archive("amd64"))
	kinds := p.does("bin/mediad stage list --plugins lib/mediad/plugins")
	entries, err := os.ReadDir("../plugins")
	if err != nil || len(entries) == 0 {
		t.Fatal(err, "there are no plugins")
	}
	for _, e := range entries {
		if !strings.Contains(kinds, e.Name()+" ") {
			t.Errorf("%s is not listed:\n%s", e.Name(), kinds)
		}
		p.does("test -x lib/mediad/plugins/%s", e.Name())
	}
	p.does("bin/mediad stage test ./lib/mediad/plugins/reader-disk root=media --name sample.flv --missing nope.flv")
	p.does(`sed -i -e 's|^version: 1|&\nplugins: {dir: ./lib/mediad/plugins}|' -e 's/use: \(reader\|writer\)-disk/&\n      run: process/' pipelines.yaml`)
	p.does("bin/mediad check")
	p.starts("exec bin/mediad run")
	p.sees(`"ok"`, healthz)
	p.sees("plugins/reader-disk", "ps -eo args")
	p.sees("plugins/writer-disk", "ps -eo args")
	p.sees("h264", "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 http://localhost:8080/vod/sample.mp4")
	p.sees("h264", "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 media/recordings/demo/*/*.flv")
}

// TestArchive_arm64 runs the other binary under emulation.
func TestArchive_arm64(t *testing.T) {
	p := someone(t)
	p.does("tar --strip-components=1 -xzf %s/%s.tar.gz", out, archive("arm64"))
	if got := p.does("qemu-aarch64-static bin/mediad version"); !strings.HasSuffix(got, " linux/arm64\n") {
		t.Errorf("it is %q", got)
	}
	p.does("qemu-aarch64-static bin/mediad check")
	if got := p.does("dpkg-deb -f %s/mediad_*_arm64.deb Architecture", out); got != "arm64\n" {
		t.Errorf("the package is for %q", got)
	}
}

// asSystemd is what a package's scripts find where systemd runs; it notes what they ask for.
const asSystemd = `mkdir -p /run/systemd/system /usr/local/bin
printf '#!/bin/sh\necho "$*" >> /run/systemctl\n' > /usr/local/bin/systemctl
chmod 755 /usr/local/bin/systemctl`

// TestDebian installs the package, uses what is in it, and removes it again.
func TestDebian(t *testing.T) {
	p := someone(t)
	deb := filepath.Join(out, "mediad_"+strings.ReplaceAll(release, "-", ".")+"_amd64.deb")
	for name, want := range map[string]string{"Package": "mediad", "Version": "1.2.3.test", "Architecture": "amd64"} {
		if got := p.does("dpkg-deb -f %s %s", deb, name); got != want+"\n" {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	p.does(asSystemd)
	p.does("dpkg -i %s", deb)
	if got := p.does("cat /run/systemctl; rm /run/systemctl"); got != "daemon-reload\nenable mediad.service\nrestart mediad.service\n" {
		t.Errorf("when it is installed systemd is asked for\n%s", got)
	}
	if got := p.does("mediad version"); !strings.HasPrefix(got, "mediad v"+release) {
		t.Errorf("it is %q", got)
	}

	t.Run("service", func(t *testing.T) {
		p := person{t, p.machine}
		p.does("systemd-analyze verify --man=no /lib/systemd/system/mediad.service")
		p.does("systemd-analyze security --offline=true --threshold=20 /lib/systemd/system/mediad.service")
		// As the unit does it: a user without rights, in its folder.
		p.does("install -d -o nobody /var/lib/mediad /var/lib/mediad/media")
		p.does("cd /var/lib/mediad && setpriv --reuid=nobody --clear-groups mediad check -c /etc/mediad/pipelines.yaml")
		p.starts("cd /var/lib/mediad && exec setpriv --reuid=nobody --clear-groups mediad run -c /etc/mediad/pipelines.yaml")
		p.sees(`"ok"`, healthz)
		if got := p.does("mediad channels"); strings.Contains(got, "demo") {
			t.Errorf("a server plays a demo:\n%s", got)
		}
		p.publishes()
		p.sees("h264", "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 /var/lib/mediad/media/recordings/mine/*/*.flv")
	})
	t.Run("manual", func(t *testing.T) {
		p := person{t, p.machine}
		pages := strings.Fields(p.does("dpkg -L mediad | grep /man1/.*gz"))
		if len(pages) < 10 {
			t.Errorf("there are only %q", pages)
		}
		for _, page := range pages {
			if got := p.does("man --warnings -l %s 2>&1 >/dev/null", page); got != "" {
				t.Errorf("%s: %s", page, got)
			}
			p.does("mandoc -T lint -W error %s", page)
		}
	})
	t.Run("completions", func(t *testing.T) {
		p := person{t, p.machine}
		p.does("bash -n /usr/share/bash-completion/completions/mediad")
		p.does("zsh -n /usr/share/zsh/vendor-completions/_mediad")
		p.does("fish -n /usr/share/fish/vendor_completions.d/mediad.fish")
		got := p.does(`bash -c '. /usr/share/bash-completion/bash_completion; . /usr/share/bash-completion/completions/mediad
			COMP_WORDS=(mediad rel) COMP_CWORD=1 COMP_LINE="mediad rel" COMP_POINT=10; __start_mediad; echo "${COMPREPLY[@]}"'`)
		if !strings.Contains(got, "reload") {
			t.Errorf("bash completes rel to %q", got)
		}
	})
	t.Run("upgrade", func(t *testing.T) {
		p := person{t, p.machine}
		p.does("echo '# mine' >> /etc/mediad/pipelines.yaml")
		p.does("dpkg -i %s && grep -q '# mine' /etc/mediad/pipelines.yaml", deb)
	})
	t.Run("removal", func(t *testing.T) {
		p := person{t, p.machine}
		p.does("rm /run/systemctl; dpkg -r mediad")
		if got := p.does("cat /run/systemctl"); got != "disable --now mediad.service\ndaemon-reload\n" {
			t.Errorf("when it is removed systemd is asked for\n%s", got)
		}
		p.does("test -e /etc/mediad/pipelines.yaml && ! test -e /usr/bin/mediad")
		p.does("dpkg -P mediad && ! test -e /etc/mediad")
	})
}

// publishes publishes a few seconds.
func (p person) publishes() {
	p.t.Helper()
	p.does("ffmpeg -v error -re -f lavfi -i testsrc2=size=320x180 -t 3 -c:v libx264 -preset ultrafast -g 25 -f flv rtmp://localhost/live/mine")
}

// TestImage builds the image and runs it. There is no engine: buildah builds it and runs it with a root of its own.
func TestImage(t *testing.T) {
	p := someone(t)
	dockerfile, err := os.ReadFile("Dockerfile")
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(dockerfile) {
		if from, ok := bytes.CutPrefix(line, []byte("FROM ")); ok && string(bytes.TrimSpace(from)) != "scratch" {
			t.Errorf("the image is made from %s, which has to be pulled", from)
		}
	}
	if err := os.WriteFile(filepath.Join(context, "Dockerfile"), dockerfile, 0o644); err != nil {
		t.Fatal(err)
	}
	const buildah = "buildah --storage-driver vfs --root $PWD/store --runroot $PWD/run"
	p.does(buildah+" bud -q --isolation chroot -f %[1]s/Dockerfile -t mediad %[1]s", context)
	container := strings.TrimSpace(p.does(buildah + " from localhost/mediad"))
	p.starts(buildah + " run --isolation chroot " + container + " -- /usr/bin/mediad run -c /etc/mediad/pipelines.yaml")
	p.sees(`"ok"`, healthz)
	p.sees("65532 /usr/bin/mediad run", "ps -eo uid:1,args")
	p.publishes()
	root := strings.TrimSpace(p.does(buildah + " mount " + container))
	p.sees("h264", "ffprobe -v error -show_entries stream=codec_name -of csv=p=0 %s/var/lib/mediad/media/recordings/mine/*/*.flv", root)
	p.does("test -s %s/etc/ssl/certs/ca-certificates.crt", root)
	p.does("pkill -x mediad")
}
