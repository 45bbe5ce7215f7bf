package fakes

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// chNewest is the version that the fake is if the plan has no other.
const chNewest = "v53.0"

// runCloudHypervisor is cloud-hypervisor's main.
func runCloudHypervisor(dir string, p Plan, args []string) error {
	version := p.CloudHypervisor
	if version == "" {
		version = chNewest
	}
	number, _, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	major, err := strconv.Atoi(number)
	if err != nil {
		return fmt.Errorf("version %q in the plan", version)
	}
	options, err := parseCHArguments(args, major)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exit(2)
	}
	if options.has("version") {
		fmt.Println("cloud-hypervisor", version)
		return nil
	}
	unix.Umask(0o077)
	code, err := startCH(dir, p, version, major, options)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return exit(1)
	}
	return exit(code)
}

// startCH runs the API and the VMM's thread, and returns when both have ended.
func startCH(dir string, p Plan, version string, major int, options chArguments) (int, error) {
	listener, err := chListener(options)
	if err != nil {
		return 1, err
	}
	v := &chVMM{version: version, major: major, netDir: filepath.Join(dir, "net"), requests: make(chan chRequest), over: make(chan struct{})}
	v.name = chName(listener, options)
	v.plan = p.VMs[v.name]
	if v.plan.Crash == AtStart {
		fmt.Fprintln(os.Stderr, "cloud-hypervisor: "+v.plan.Says)
		return max(1, v.plan.Exit), nil
	}
	if v.plan.Hang == AtStart {
		forever()
	}
	fd, err := chEventsFD(options)
	if err != nil {
		return 1, err
	}
	if v.events, err = newCHEvents(fd, v.plan.VMM); err != nil {
		return 1, chain{"Error creating the event monitor", err.Error()}
	}
	server, err := newCHServer(v, listener)
	if err != nil {
		return 1, err
	}
	v.events.tell("vmm", "starting")
	go server.serve()
	ended := make(chan chEnd)
	go func() {
		runtime.LockOSThread() // Landlock confines this thread, which ends with the goroutine
		code, err := v.run(options)
		ended <- chEnd{code, err}
	}()
	end := <-ended
	close(v.over)
	v.events.tell("vmm", "shutdown")
	server.end()
	return end.code, end.err
}

// chName is the VM's name, which the command line does not have: the guest's, or
// that of the run folder.
func chName(listener net.Listener, options chArguments) string {
	if config, err := readGuestConfig(options.one("initramfs")); err == nil && config.Hostname != "" {
		return config.Hostname
	}
	return filepath.Base(filepath.Dir(listener.Addr().String()))
}

type chEnd struct {
	code int
	err  error
}

// chListener is the inherited socket of the API.
func chListener(options chArguments) (net.Listener, error) {
	var errs chain
	socket := parseCHOptions("api-socket", options.one("api-socket"), &errs)
	fd := socket.number("fd", -1)
	if len(errs) > 0 {
		return nil, errs
	}
	if fd < 3 {
		return nil, errors.New("this fake takes the API's socket as a descriptor alone")
	}
	listener, err := net.FileListener(os.NewFile(uintptr(fd), "api"))
	if err != nil {
		return nil, chain{"Error starting the VMM thread", "Error serving HTTP", err.Error()}
	}
	if _, ok := listener.(*net.UnixListener); !ok {
		return nil, errors.New("the API's socket is no unix socket")
	}
	return listener, nil
}

// chEventsFD is that of the event monitor, -1 without one.
func chEventsFD(options chArguments) (int, error) {
	if !options.has("event-monitor") {
		return -1, nil
	}
	var errs chain
	monitor := parseCHOptions("event-monitor", options.one("event-monitor"), &errs)
	fd := monitor.number("fd", -1)
	if len(errs) > 0 {
		return -1, errs
	}
	if fd < 3 {
		return -1, errors.New("this fake takes the event monitor as a descriptor alone")
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	if err != nil || flags&unix.O_ACCMODE == unix.O_RDONLY {
		return -1, chain{"Error creating the event monitor", fmt.Sprintf("descriptor %d can't be written to: %v", fd, err)}
	}
	return fd, nil
}

// run is the VMM's thread.
func (v *chVMM) run(options chArguments) (int, error) {
	config, err := chConfigOf(options)
	if err != nil {
		return 1, err
	}
	v.config, v.noShutdown = config, options.has("no-shutdown")
	if err := v.create(); err != nil {
		return 1, err
	}
	if err := v.boot(); err != nil {
		return 1, err
	}
	return v.loop()
}

// loop acts on one thing after another, as the VMM's control loop does.
func (v *chVMM) loop() (int, error) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	for {
		select {
		case <-signals:
			v.shutDown()
			return 0, nil
		case r := <-v.requests:
			answer, ends := v.act(r.action)
			r.answer <- answer
			if ends {
				return 0, nil
			}
		case code := <-v.guestEnds():
			switch {
			case code > 0:
				return code, nil
			case code == Reset:
				if err := v.reboot(); err != nil {
					return 1, err
				}
			default:
				v.shutDown()
				if v.noShutdown {
					continue
				}
				v.events.tell("vm", "deleted")
				return 0, nil
			}
		}
	}
}

// guestEnds is what the guest's end comes over; never, without one.
func (v *chVMM) guestEnds() <-chan int {
	if v.guest == nil {
		return nil
	}
	return v.guest.off
}
