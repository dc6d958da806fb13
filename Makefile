# make test    everything that must pass: lint, race-checked tests, real clients, short fuzzing
# make build   the daemon, ./mediad
# make plugins the stages that also are plugins, into plugins.d
# make fuzz    each fuzz target for FUZZTIME (default 5s)
# make bench   the frame path beside nginx-rtmp (BENCH=-quick for some of it); make bench-plugin the plugin wire
# make dist    what is given to people: archives and Debian packages, in dist/out

GO       ?= go
FUZZTIME ?= 5s
LINT     := .tools/golangci-lint-v2.15.0

.PHONY: build plugins test lint fuzz tools bench-plugin
build:
	$(GO) build -o mediad ./cmd/mediad

test: tools lint
	$(GO) test -race -timeout 15m ./...
	$(GO) -C examples/reader-s3 test -race ./...
	$(MAKE) --no-print-directory fuzz

lint: $(LINT)
	test -z "$$(gofmt -l .)" || { gofmt -l . ; echo "these files want gofmt -w"; exit 1; }
	$(GO) vet ./...
	$(LINT) run ./...
	$(GO) -C examples/reader-s3 vet ./...
	cd examples/reader-s3 && ../../$(LINT) run ./...

# The race detector needs a C compiler; ffmpeg and rtmpdump are the clients that
# the tests use; the reader in Python needs gRPC.
tools:
	.ci/install gcc:gcc ffmpeg:ffmpeg ffprobe:ffmpeg rtmpdump:rtmpdump pgrep:procps \
		/usr/lib/python3/dist-packages/grpc:python3-grpcio /usr/lib/python3/dist-packages/google/protobuf:python3-protobuf

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
	.ci/install dpkg-deb:dpkg xz:xz-utils
	dist/build
