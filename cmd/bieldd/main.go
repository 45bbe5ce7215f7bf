// Command bieldd is bield's host daemon: it answers on a unix socket and holds
// the host to its spec. VMs outlive it. It is the one place that wires the
// rooms together.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"syscall"
	"time"

	"bield/internal/egress"
	"bield/internal/hypervisor/installed"
	"bield/internal/notify"
	"bield/internal/process"
	"bield/internal/reconcile"
	"bield/internal/setup"
	"bield/internal/state"
)

// version is stamped by the build.
var version = "dev"

const (
	defaultBootTimeout = 3 * time.Minute
	// closeTimeout bounds calls under way when the daemon is told to end.
	closeTimeout = 10 * time.Second
	// gcPercent is how much garbage there may be, in hundredths of what is used.
	gcPercent = 50
	// defaultRestartDelay is the first pause before a VM that has ended by
	// itself is started again.
	defaultRestartDelay = time.Second
)

type options struct {
	idle    time.Duration
	boot    time.Duration
	restart time.Duration
	readyFD int
	metrics string // TCP address, or ""
}

func main() {
	process.MaybeLaunch()
	if len(os.Args) > 1 && os.Args[1] == "egress" {
		os.Exit(egress.Main(os.Args[2:]))
	}
	// It mostly waits, and for hundreds of VMs: memory is dearer than time.
	debug.SetGCPercent(gcPercent)
	if len(os.Args) > 1 && os.Args[1] == reconcile.EgressVerb {
		os.Exit(egress.Main(os.Args[2:]))
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		os.Exit(2)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	if err := run(o, log); err != nil {
		log.Error("bieldd ends", "error", err)
		os.Exit(1)
	}
}

func parse(args []string) (options, error) {
	var o options
	flags := flag.NewFlagSet("bieldd", flag.ContinueOnError)
	flags.DurationVar(&o.idle, "idle-timeout", 0, "end after this long without a VM or a request; 0: never")
	flags.DurationVar(&o.boot, "boot-timeout", defaultBootTimeout, "how long a VM may take to become usable")
	flags.DurationVar(&o.restart, "restart-delay", defaultRestartDelay, "the first pause before a VM that ended by itself is started again; it doubles up to five minutes")
	flags.IntVar(&o.readyFD, "ready-fd", 0, "write a line to this descriptor once requests are answered")
	flags.StringVar(&o.metrics, "metrics-listen", "", "serve /metrics at this `HOST:PORT` as well, to anybody who reaches it")
	show := flags.Bool("version", false, "print the version and end")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if *show {
		fmt.Println("bieldd", version)
		return o, flag.ErrHelp
	}
	if flags.NArg() > 0 {
		fmt.Fprintln(os.Stderr, "bieldd: takes no arguments: "+flags.Arg(0))
		return o, errors.New("arguments")
	}
	if err := checkMetrics(o.metrics); err != nil {
		fmt.Fprintln(os.Stderr, "bieldd:", err)
		return o, err
	}
	return o, nil
}

// run serves until a signal or idleness ends it; what went wrong before it
// could serve also goes to the one who started it.
func run(o options, log *slog.Logger) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	ready := readiness(o.readyFD)
	manager, err := notify.FromEnv()
	if err != nil {
		log.Warn("the service manager is told nothing", "error", err)
	}
	d, err := start(ctx, o, log)
	ready(err)
	if err != nil {
		return err
	}
	defer d.close()
	d.manager = manager
	return d.serve(ctx)
}

// readiness reports once: an empty line for success, or the error.
func readiness(fd int) func(error) {
	if fd <= 2 {
		return func(error) {}
	}
	f := os.NewFile(uintptr(fd), "ready")
	return func(err error) {
		text := "\n"
		if err != nil {
			text = err.Error() + "\n"
		}
		_, _ = f.WriteString(text)
		_ = f.Close()
	}
}

func newEngine(ctx context.Context, run state.Run, cache state.Cache, o options, log *slog.Logger) (*reconcile.Engine, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find bieldd itself: %w", err)
	}
	return reconcile.New(ctx, reconcile.Options{
		Run:          run,
		Cache:        cache,
		Self:         self,
		InitBinary:   filepath.Join(filepath.Dir(self), "bield-init"),
		ProbeBinary:  filepath.Join(filepath.Dir(self), "bield-probe"),
		Virtiofsd:    func(ctx context.Context) ([]string, error) { return setup.Virtiofsd(ctx, cache.Dir) },
		Hypervisors:  installed.Host(),
		Cores:        runtime.NumCPU(),
		BootTimeout:  o.boot,
		RestartDelay: max(o.restart, time.Millisecond),
		Log:          log,
		Version:      version,
		Hook:         hook(),
	})
}
