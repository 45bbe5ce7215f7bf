# bield: `make demo` and `make test` are all a newcomer needs.
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
GO      := CGO_ENABLED=0 go
# Bridges, other users and packages need root; the build does not.
SUDO    := $(if $(filter 0,$(shell id -u)),,sudo -H env "PATH=$(PATH)")
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: build demo test deps lint fuzz cover clean

build: ## the three programs, in bin/
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/ ./cmd/bield ./cmd/bieldd ./cmd/bield-init

deps: build ## what this machine lacks: QEMU, virtiofsd, mmdebstrap
	$(SUDO) ./bin/bield setup

demo: deps ## a VM for a sample workspace: start it, show it, stop it
	$(SUDO) ./test/demo.sh

test: deps ## the whole suite, real VMs included
	$(SUDO) env BIELD_TEST_REQUIRE=$(BIELD_TEST_REQUIRE) ./test/run.sh

lint: ## golangci-lint with the project's rules
	$(GO) run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0 run ./...

fuzz: ## every fuzz target for FUZZTIME each
	./test/fuzz.sh $(or $(FUZZTIME),30s)

clean:
	rm -rf bin
