package main

import (
	"bytes"
	"net/netip"
	"testing"
	"time"

	"bield/internal/api"
	"bield/internal/spec"
)

func TestUptime(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	for _, c := range []struct {
		ago  time.Duration
		want string
	}{
		{0, "0s"}, {59 * time.Second, "59s"}, {time.Minute, "1m0s"}, {59*time.Minute + 59*time.Second, "59m59s"},
		{time.Hour, "1h0m"}, {23*time.Hour + 59*time.Minute, "23h59m"}, {24 * time.Hour, "1d0h"},
		{1000*24*time.Hour + 5*time.Hour, "1000d5h"}, {-time.Hour, "0s"}, // a clock that was set back
	} {
		since := now.Add(-c.ago)
		if got := uptime(&since, now); got != c.want {
			t.Errorf("%s ago: %s, want %s", c.ago, got, c.want)
		}
	}
	if got := uptime(nil, now); got != "-" {
		t.Errorf("not running: %s", got)
	}
}

func TestMebibytes(t *testing.T) {
	for n, want := range map[int]string{128: "128M", 512: "512M", 1023: "1023M", 1024: "1G", 1536: "1536M", 4096: "4G", 1 << 20: "1024G"} {
		if got := mebibytes(n); got != want {
			t.Errorf("%d: %s, want %s", n, got, want)
		}
	}
}

func TestPrintVMs(t *testing.T) {
	now := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	since := now.Add(-3 * time.Hour)
	var out, errOut bytes.Buffer
	a := &app{}
	if err := a.printVMs(&out, &errOut, []spec.VMStatus{
		{Name: "claude-home", State: spec.StateRunning, IP: netip.MustParseAddr("192.168.83.2"), VCPU: 8, MemoryMiB: 4096, Since: &since, Workspace: "/home/me/work",
			Hypervisor: "cloud-hypervisor", Accelerator: "kvm", HypervisorWhy: "cloud-hypervisor 53.0 with KVM"},
		{Name: "slow", State: spec.StateRunning, IP: netip.MustParseAddr("192.168.83.3"), VCPU: 2, MemoryMiB: 512, Workspace: "/srv/s",
			Hypervisor: "qemu", Accelerator: "tcg", HypervisorWhy: "QEMU 7.2 without KVM: there is no /dev/kvm"},
		{Name: "b", State: spec.StateFailed, Reason: "the VMM ended: exit status 1", IP: netip.MustParseAddr("192.168.83.103"), VCPU: 1, MemoryMiB: 512, Workspace: "/srv/b"},
	}, now); err != nil {
		t.Fatal(err)
	}
	const want = `NAME         STATE    IP              VCPU  MEM   HYPERVISOR            UPTIME  WORKSPACE
claude-home  running  192.168.83.2    8     4G    cloud-hypervisor/kvm  3h0m    /home/me/work
slow         running  192.168.83.3    2     512M  qemu/tcg              -       /srv/s
b            failed   192.168.83.103  1     512M  -                     -       /srv/b
! b: the VMM ended: exit status 1
~ slow: QEMU 7.2 without KVM: there is no /dev/kvm
`
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
	out.Reset()
	if err := a.printVMs(&out, &errOut, nil, now); err != nil || out.Len() != 0 || errOut.Len() == 0 {
		t.Errorf("no VM: %v, %q, %q", err, out.String(), errOut.String())
	}
}

func TestPrintImages(t *testing.T) {
	var out bytes.Buffer
	a := &app{out: &out}
	if err := a.printImages([]api.Image{
		{Digest: "0123456789abcdef0123", Made: time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC), Bytes: 235 << 20, Suite: "bookworm", Kernel: "6.1.0-40-cloud-amd64", UsedBy: []string{"a", "b"}},
		{Digest: "fedcba9876543210", Made: time.Date(2025, 12, 1, 1, 2, 3, 0, time.UTC), Bytes: 1 << 10, Suite: "trixie", Kernel: "6.12"},
	}); err != nil {
		t.Fatal(err)
	}
	const want = `DIGEST        MADE                 SIZE  SUITE     KERNEL                USED BY
0123456789ab  2026-01-31 12:00:00  235M  bookworm  6.1.0-40-cloud-amd64  a b
fedcba987654  2025-12-01 01:02:03  0M    trixie    6.12                  ` + `
`
	if out.String() != want {
		t.Errorf("got:\n%swant:\n%s", out.String(), want)
	}
}
