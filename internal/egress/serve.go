package egress

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"syscall"
	"time"

	"github.com/landlock-lsm/go-landlock/landlock"
	"github.com/miekg/dns"
	"golang.org/x/sys/unix"
)

const (
	// memoryLimit is the heap at which garbage is collected at once.
	memoryLimit = 256 << 20
	// MaxFiles is the limit of descriptors for as many connections as there may
	// be: each takes two sockets and two pipes. With less there are fewer.
	MaxFiles       = maxConns*filesAConn + otherFiles
	filesAConn     = 6
	otherFiles     = 1024
	dnsTCPTimeout  = 5 * time.Second
	dnsTCPMostAsks = 128
)

// Main is `bieldd egress`: the sockets are descriptors 3 to 7 (UDP and TCP for
// DNS, TCP for redirected connections, control, NFLOG). It logs to standard
// error, which the daemon has made a file, and ends on SIGTERM. It returns the
// exit code.
func Main(args []string) int {
	flags := flag.NewFlagSet("bieldd egress", flag.ContinueOnError)
	if err := flags.Parse(args); err != nil || flags.NArg() > 0 {
		return 2
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	if err := run(ctx, log); err != nil {
		log.Error("bieldd egress ends", "error", err)
		return 1
	}
	return 0
}

func run(ctx context.Context, log *slog.Logger) error {
	sockets, err := inherited()
	if err != nil {
		return err
	}
	debug.SetMemoryLimit(memoryLimit)
	if err := confine(); err != nil {
		return err
	}
	return Serve(ctx, sockets, log)
}

// confine gives up what the process doesn't need and a guest that took it over
// could use: files, new listening ports, other processes, its own memory's dumps.
func confine() error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become undumpable: %w", err)
	}
	const bindTCP = 1 // LANDLOCK_ACCESS_NET_BIND_TCP, linux/landlock.h
	all := landlock.V10.BestEffort()
	ports, err := landlock.NewConfig(landlock.AccessNetSet(bindTCP))
	if err != nil {
		return fmt.Errorf("make Landlock's rules: %w", err)
	}
	if err := errors.Join(all.RestrictPaths(), all.RestrictScoped(), ports.BestEffort().RestrictNet()); err != nil {
		return fmt.Errorf("give up files and ports: %w", err)
	}
	return nil
}

// Serve answers guests and the daemon until ctx ends. Without a policy it denies
// everything. It owns the sockets.
func Serve(ctx context.Context, s Sockets, log *slog.Logger) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c := newCore(ctx, log)
	control := &control{core: c, resolver: newResolver(c), proxy: newProxy(c, connsFor(fileLimit()))}
	var parts sync.WaitGroup
	part := func(serve func() error) {
		parts.Go(func() { cancel(serve()) })
	}
	part(func() error { return control.serve(ctx, s.Control) })
	part(func() error { return control.proxy.serve(ctx, s.Proxy) })
	part(func() error { return control.resolver.serve(ctx, s) })
	if s.Log != nil {
		part(func() error { return c.readLog(s.Log) })
		stop := context.AfterFunc(ctx, func() { _ = s.Log.Close() })
		defer stop()
	}
	parts.Wait()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// connsFor is how many connections a limit of descriptors allows.
func connsFor(files uint64) int {
	if files <= otherFiles {
		return int(files / filesAConn / 2)
	}
	return int(min((files-otherFiles)/filesAConn, maxConns))
}

func fileLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return limit.Cur
}

// serve answers DNS by UDP and TCP.
func (r *resolver) serve(ctx context.Context, s Sockets) error {
	tcp := &boundListener{Listener: s.DNSTCP, places: newSlots(maxDNSConns, maxDNSConnsVM), core: r.core}
	servers := []*dns.Server{
		{PacketConn: s.DNS, Handler: r, UDPSize: udpSize},
		{
			Listener: tcp, Handler: r, ReadTimeout: dnsTCPTimeout, WriteTimeout: dnsTCPTimeout, MaxTCPQueries: dnsTCPMostAsks,
			IdleTimeout: func() time.Duration { return dnsTCPTimeout },
		},
	}
	stop := context.AfterFunc(ctx, func() {
		_ = s.DNS.Close()
		_ = s.DNSTCP.Close()
	})
	defer stop()
	errs := make(chan error, len(servers))
	for _, server := range servers {
		go func() { errs <- server.ActivateAndServe() }()
	}
	err := <-errs
	_ = s.DNS.Close()
	_ = s.DNSTCP.Close()
	err = errors.Join(err, <-errs)
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("answer DNS: %w", err)
}

// boundListener takes a bounded number of connections of guests, of each and of
// all, and none of others.
type boundListener struct {
	net.Listener
	places *slots
	core   *core
}

// Accept ends at once what it does not take.
func (l *boundListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		g := l.core.rules.Load().byAddress[addressOf(c.RemoteAddr()).Addr()]
		if g != nil && l.places.take(g.Name) {
			return &boundConn{Conn: c, leave: func() { l.places.give(g.Name) }}, nil
		}
		_ = c.Close()
	}
}

type boundConn struct {
	net.Conn
	once  sync.Once
	leave func()
}

// Close gives the place to others.
func (c *boundConn) Close() error {
	c.once.Do(c.leave)
	return c.Conn.Close()
}
