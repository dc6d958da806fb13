# make test    everything that must pass: lint, race-checked tests, real clients, short fuzzing
# make build   the daemon, ./mediad
# make plugins the stages that also are plugins, into plugins.d
# make fuzz    each fuzz target for FUZZTIME (default 5s)
# make torture every case of the torture list, with a table; make soak FOR=1h the daemon under a crowd
# make cluster-test several hosts on this machine, in network namespaces
# make bench   the frame path beside nginx-rtmp (BENCH=-quick for some of it); make bench-plugin the plugin wire
# make dist    what is given to people: archives and Debian packages, in dist/out

GO       ?= go
FUZZTIME ?= 5s
LINT     := .tools/golangci-lint-v2.15.0

.PHONY: build plugins test cluster-test torture soak lint fuzz tools bench-plugin
build:
	$(GO) build -o mediad ./cmd/mediad

test: tools lint
	$(GO) test -race -timeout 20m $$($(GO) list ./... | grep -v /e2e/cluster)
	$(GO) -C examples/reader-s3 test -race ./...
	$(MAKE) --no-print-directory cluster-test
	$(MAKE) --no-print-directory fuzz

lint: $(LINT)
	test -z "$$(gofmt -l .)" || { gofmt -l . ; echo "these files want gofmt -w"; exit 1; }
	$(GO) vet ./...
	$(LINT) run ./...
	$(GO) -C examples/reader-s3 vet ./...
	cd examples/reader-s3 && ../../$(LINT) run ./...

# Apart from the rest, since it measures times.
cluster-test:
	.ci/install ip:iproute2 tc:iproute2 openssl:openssl ffmpeg:ffmpeg
	$(GO) test -parallel 8 -timeout 15m ./e2e/cluster

torture: tools
	$(GO) run ./torture -out docs/torture-run.md
	.ci/fuzz 1m

FOR ?= 1h
soak:
	$(GO) run ./torture/soak -for $(FOR) -out docs/soak.md

# The race detector needs a C compiler; ffmpeg, rtmpdump, curl and Chromium are the clients that
# the tests use, and npm gets those that run in a browser; the reader in Python needs gRPC. What
# stands in the documents, and what is given to people, is tried with the programs of the rest.
tools:
	.ci/install gcc:gcc ffmpeg:ffmpeg ffprobe:ffmpeg ffplay:ffmpeg rtmpdump:rtmpdump pgrep:procps prlimit:util-linux nsenter:util-linux strace:strace \
		cvlc:vlc-bin /usr/share/doc/vlc-plugin-base:vlc-plugin-base runuser:util-linux chromium:chromium node:nodejs npm:npm \
		/usr/lib/python3/dist-packages/grpc:python3-grpcio /usr/lib/python3/dist-packages/google/protobuf:python3-protobuf \
		ip:iproute2 curl:curl openssl:openssl nginx:nginx /usr/lib/nginx/modules/ngx_rtmp_module.so:libnginx-mod-rtmp \
		dpkg-deb:dpkg xz:xz-utils /etc/ssl/certs/ca-certificates.crt:ca-certificates qemu-aarch64-static:qemu-user-static buildah:buildah \
		systemd-analyze:systemd man:man-db mandoc:mandoc zsh:zsh fish:fish /usr/share/bash-completion/bash_completion:bash-completion

$(LINT):
	mkdir -p .tools
	GOBIN=$(CURDIR)/.tools $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv .tools/golangci-lint $@

fuzz:
	.ci/fuzz $(FUZZTIME)

# The plugin wire: in process, as a plugin, and with plain protobuf, side by side.
bench-plugin:
	$(GO) run ./pipeline/plugin/bench

plugins:
	$(GO) build -o plugins.d/reader-disk ./plugins/reader-disk/plugin
	$(GO) build -o plugins.d/reader-http ./plugins/reader-http/plugin
	$(GO) build -o plugins.d/writer-disk ./plugins/writer-disk/plugin
	$(GO) build -o plugins.d/repeater-tcp ./plugins/repeater-tcp/plugin

# The frame path against nginx-rtmp (Debian: nginx, libnginx-mod-rtmp), when that is installed.
.PHONY: bench
bench:
	$(GO) run ./bench $(BENCH)

.PHONY: dist
dist:
	.ci/install dpkg-deb:dpkg xz:xz-utils /etc/ssl/certs/ca-certificates.crt:ca-certificates
	dist/build
