# bield: `make demo` and `make test` are all a newcomer needs.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      := CGO_ENABLED=0 go
# Bridges, other users and packages need root; the build does not.
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo -H env "PATH=$(PATH)")
LDFLAGS := -s -w -X main.version=$(VERSION)
# Where the programs are built, and the package is put.
BIN     := bin
DIST    := dist

# Where `make install` puts things, below DESTDIR.
DESTDIR     :=
PREFIX      := /usr/local
BINDIR      := $(PREFIX)/bin
LIBEXECDIR  := $(PREFIX)/libexec/bield
SYSCONFDIR  := /etc
UNITDIR     := $(PREFIX)/lib/systemd/system
SYSUSERSDIR := $(PREFIX)/lib/sysusers.d
MANDIR      := $(PREFIX)/share/man
DOCDIR      := $(PREFIX)/share/doc/bield
BASHDIR     := $(PREFIX)/share/bash-completion/completions
ZSHDIR      := $(PREFIX)/share/zsh/site-functions
FISHDIR     := $(PREFIX)/share/fish/vendor_completions.d
FOLDERS      = DESTDIR='$(DESTDIR)' BINDIR='$(BINDIR)' LIBEXECDIR='$(LIBEXECDIR)' SYSCONFDIR='$(SYSCONFDIR)' \
	UNITDIR='$(UNITDIR)' SYSUSERSDIR='$(SYSUSERSDIR)' MANDIR='$(MANDIR)' DOCDIR='$(DOCDIR)' \
	BASHDIR='$(BASHDIR)' ZSHDIR='$(ZSHDIR)' FISHDIR='$(FISHDIR)' BIN='$(abspath $(BIN))' VERSION='$(VERSION)'

.PHONY: build bench demo test testdeps deps lint fuzz clean install uninstall deb

build: ## the four programs, in bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/ ./cmd/bield ./cmd/bieldd ./cmd/bield-init ./cmd/bield-probe

# Not built anew by `sudo make install`: root may have no Go.
$(BIN)/bield:
	$(MAKE) build

install: $(BIN)/bield ## programs, units, manual, completions: DESTDIR= PREFIX=/usr/local
	$(FOLDERS) packaging/install.sh install
	@test -n "$(DESTDIR)" || echo "now: systemctl daemon-reload && systemctl enable --now bieldd"

uninstall: $(BIN)/bield ## what install put there, but for /etc: first bield down --all, systemctl disable --now bieldd
	$(FOLDERS) packaging/install.sh uninstall

deb: build ## a Debian package, in dist/
	BIN='$(BIN)' DIST='$(DIST)' MAKE='$(MAKE)' VERSION='$(VERSION)' packaging/deb/build.sh

deps: build ## what this machine lacks: QEMU, virtiofsd, mmdebstrap
	$(SUDO) ./bin/bield setup

demo: deps ## a VM for a sample workspace: start it, show it, stop it
	$(SUDO) ./test/demo.sh

testdeps: deps ## and what only the tests need
	$(SUDO) ./test/needs.sh

test: testdeps ## the whole suite, real VMs included
	$(SUDO) env BIELD_TEST_REQUIRE=$(BIELD_TEST_REQUIRE) BIELD_CLOUD_HYPERVISOR=$(BIELD_CLOUD_HYPERVISOR) ./test/run.sh

lint: ## golangci-lint with the project's rules
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

bench: testdeps ## what is measured, with this machine's figures; BENCH=Plan for one
	$(SUDO) env BIELD_TEST_REQUIRE=1 $(GO) test ./bench -run '^$$' -bench '$(or $(BENCH),.)' -benchtime 3x -timeout 60m

fuzz: ## every fuzz target for FUZZTIME each
	./test/fuzz.sh $(or $(FUZZTIME),30s)

clean:
	rm -rf $(BIN) $(DIST)
