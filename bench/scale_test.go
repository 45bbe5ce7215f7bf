package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/api"
	"bield/internal/network"
	"bield/internal/process"
	"bield/test/host"
)

func TestMain(m *testing.M) {
	process.MaybeLaunch()
	host.Main(m, nil)
}

// declaration is a file with so many VMs: in a /16 where they are many. In the
// usual subnet the fakes answer for the guests.
func declaration(vms int) string {
	subnet, address := "10.83.0.0/16", func(i int) string { return fmt.Sprintf("10.83.%d.%d", 1+i/200, 2+i%200) }
	if vms <= 200 {
		subnet, address = "192.168.83", func(i int) string { return fmt.Sprintf("192.168.83.%d", 2+i) }
	}
	var b strings.Builder
	fmt.Fprintf(&b, "subnet: %s\nstateDir: ~/state\nuser: {name: dev, uid: 4711, gid: 4712}\nstopTimeout: 1s\nvms:\n", subnet)
	for i := range vms {
		fmt.Fprintf(&b, "  vm%d: {ip: %s, workspace: ~/src, mem: 256, mac: '02:00:00:03:%02x:%02x'}\n", i, address(i), i/256, i%256)
	}
	return b.String()
}

// machine makes a machine with a daemon and so many declared VMs.
func machine(b *testing.B, vms int) *host.Host {
	b.Helper()
	host.Require(b)
	runtime.LockOSThread() // and never unlocked: the thread ends with the benchmark
	work, err := os.MkdirTemp(host.Base(), "m")
	must(b, err)
	b.Cleanup(func() { _ = os.RemoveAll(work) })
	must(b, os.Chmod(work, 0o755))
	h, err := host.New(work)
	must(b, err)
	b.Cleanup(func() { h.End(b) })
	must(b, h.Declare(declaration(vms)))
	must(b, h.StartDaemon(nil))
	return h
}

func must(b *testing.B, err error) {
	b.Helper()
	if err != nil {
		b.Fatal(err)
	}
}

func request(b *testing.B, h *host.Host) api.ApplyRequest {
	b.Helper()
	s, err := h.Spec(b.Context())
	must(b, err)
	return api.ApplyRequest{Host: s, Origin: h.File()}
}

// BenchmarkPlan is `bield plan` with a thousand declared VMs and nothing to do:
// the CPU time of the daemon, and of the command, which reads and checks the
// file.
func BenchmarkPlan(b *testing.B) {
	h := machine(b, 1000)
	must(b, h.Client.Apply(b.Context(), request(b, h), quiet))
	out, err := exec.CommandContext(b.Context(), "go", "build", "-o", host.Bin("bield"), "bield/cmd/bield").CombinedOutput()
	if err != nil {
		b.Fatalf("build bield: %s", out)
	}
	pid, err := h.DaemonPID()
	must(b, err)
	var daemon, command time.Duration
	for b.Loop() {
		before := onCPU(b, pid)
		cmd := exec.CommandContext(b.Context(), host.Bin("bield"), "plan")
		for key, value := range h.Environment() {
			cmd.Env = append(cmd.Env, key+"="+value)
		}
		out, err := cmd.Output()
		if err != nil || strings.TrimSpace(string(out)) != "nothing to do" {
			b.Fatalf("%s %v", out, err)
		}
		daemon += onCPU(b, pid) - before
		command += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	perOp := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / float64(b.N) }
	b.ReportMetric(perOp(daemon), "daemon-cpu-ms/op")
	b.ReportMetric(perOp(command), "bield-cpu-ms/op")
}

// onCPU is the time that a process's threads have run: the first number of
// /proc/PID/task/TID/schedstat, in nanoseconds (sched-stats.rst of the kernel).
func onCPU(b *testing.B, pid int) time.Duration {
	b.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	must(b, err)
	var sum time.Duration
	for _, file := range files {
		data, err := os.ReadFile(file)
		if errors.Is(err, unix.ESRCH) || os.IsNotExist(err) {
			continue // the thread has ended
		}
		must(b, err)
		n, err := strconv.ParseInt(strings.Fields(string(data))[0], 10, 64)
		must(b, err)
		sum += time.Duration(n)
	}
	return sum
}

// BenchmarkTaps makes and removes taps on one bridge, with the firewall that
// lets them in. The time of each should not grow with their number.
func BenchmarkTaps(b *testing.B) {
	for _, n := range []int{50, 100, 200} {
		b.Run(strconv.Itoa(n), func(b *testing.B) { taps(b, n) })
	}
}

func taps(b *testing.B, n int) {
	machine(b, 1) // for its network namespace
	const owner = "bield bench"
	bridge := network.Bridge{Name: "bench", Owner: owner, Address: netip.MustParsePrefix("10.84.0.1/16")}
	_, err := network.EnsureBridge(b.Context(), bridge)
	must(b, err)
	var adding, removing time.Duration
	for b.Loop() {
		began := time.Now()
		for i := range n {
			must(b, network.EnsureTap(b.Context(), tap(bridge, i)))
		}
		adding += time.Since(began)
		began = time.Now()
		for i := range n {
			must(b, network.RemoveTap(b.Context(), tap(bridge, i)))
		}
		removing += time.Since(began)
	}
	must(b, network.RemoveBridge(b.Context(), bridge))
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / float64(b.N*n) }
	b.ReportMetric(each(adding), "add-us/tap")
	b.ReportMetric(each(removing), "remove-us/tap")
}

func tap(bridge network.Bridge, i int) network.Tap {
	return network.Tap{
		Name: fmt.Sprintf("bench%d", i), Bridge: bridge.Name, Owner: bridge.Owner,
		MAC: fmt.Sprintf("02:00:00:02:%02x:%02x", i/256, i%256), UID: 4711, GID: 4712,
	}
}

// BenchmarkFleet brings fake VMs up through the daemon, has another daemon take
// them over, and brings them down. What a VM costs should not grow with their
// number.
func BenchmarkFleet(b *testing.B) {
	for _, n := range []int{50, 100, 200} {
		b.Run(strconv.Itoa(n), func(b *testing.B) { fleet(b, n) })
	}
}

func fleet(b *testing.B, n int) {
	h := machine(b, n)
	r := request(b, h)
	up := api.UpRequest{Host: r.Host, Origin: r.Origin, Force: true}
	var ups, adoptions, plans, downs, memory []float64
	for b.Loop() {
		ups = append(ups, timed(b, func() error { return h.Client.Up(b.Context(), up, quiet) }))
		must(b, h.EndDaemon(unix.SIGKILL))
		adoptions = append(adoptions, timed(b, func() error { return h.StartDaemon(nil) }))
		pid, err := h.DaemonPID()
		must(b, err)
		before := onCPU(b, pid)
		planned, err := h.Client.Plan(b.Context(), r)
		must(b, err)
		plans = append(plans, float64((onCPU(b, pid)-before).Microseconds())/1000)
		if planned.Steps() > 0 || len(planned.Unchanged) != n {
			b.Fatalf("taken over: %d steps, %d unchanged", planned.Steps(), len(planned.Unchanged))
		}
		memory = append(memory, resident(b, pid))
		downs = append(downs, timed(b, func() error { return h.Client.Down(b.Context(), api.DownRequest{Force: true}, quiet) }))
	}
	b.ReportMetric(median(ups)/float64(n), "up-ms/vm")
	b.ReportMetric(median(adoptions)/float64(n), "adopt-ms/vm")
	b.ReportMetric(median(plans), "plan-cpu-ms")
	b.ReportMetric(median(downs)/float64(n), "down-ms/vm")
	b.ReportMetric(median(memory), "daemon-MiB")
}

func quiet(api.Event) {}

// timed is how many milliseconds something took.
func timed(b *testing.B, do func() error) float64 {
	b.Helper()
	began := time.Now()
	must(b, do())
	return float64(time.Since(began).Microseconds()) / 1000
}

// resident is a process's memory that is no other's, and its part of what it
// shares: Pss of /proc/PID/smaps_rollup, in MiB.
func resident(b *testing.B, pid int) float64 {
	b.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	must(b, err)
	for line := range strings.Lines(string(data)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "Pss:" {
			n, err := strconv.Atoi(fields[1])
			must(b, err)
			return float64(n) / 1024
		}
	}
	b.Fatal("no Pss in smaps_rollup")
	return 0
}

func median(values []float64) float64 {
	slices.Sort(values)
	return values[len(values)/2]
}
