package fakes

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

// chVMM is the VMM with its one VM. All but the requests is its own thread's.
type chVMM struct {
	version string
	major   int
	name    string
	netDir  string
	plan    Guest
	events  *chEvents

	config     chConfig
	noShutdown bool
	unconfined bool // the kernel has no Landlock
	state      string
	guest      *guest
	serial     *net.UnixListener
	vsock      *chVsock
	shares     map[string]*share
	requests   chan chRequest
	over       chan struct{} // closed when nobody takes requests any more
}

// States of a VM.
const (
	chCreated = "Created"
	chRunning = "Running"
	chPaused  = "Paused"
)

// create is vm.create: the consoles are made, and then the thread is confined.
func (v *chVMM) create() error {
	v.state = chCreated
	if err := v.makeSerial(); err != nil {
		return err
	}
	if !v.config.LandlockEnable {
		return nil
	}
	err := v.config.restrict()
	if errors.Is(err, errNoLandlock) {
		v.unconfined = true
		return nil
	}
	if err != nil {
		return chain{"Error creating VM", "Error applying Landlock", err.Error()}
	}
	return nil
}

func (v *chVMM) makeSerial() error {
	if v.config.Serial.Mode != "Socket" || v.plan.VMM.Sockets == SerialMissing {
		return nil
	}
	var err error
	if v.serial, err = v.listen(v.config.Serial.Socket); err != nil {
		return chain{"Error creating VM", "Error creating console devices", err.Error()}
	}
	return nil
}

// listen makes a socket. Without Landlock it looks at the rules by itself: what
// has none on another kernel is to be found here.
func (v *chVMM) listen(path string) (*net.UnixListener, error) {
	if v.config.LandlockEnable && v.unconfined {
		if err := v.config.mayMake(path); err != nil {
			return nil, err
		}
	}
	return listenCH(path)
}

// boot is vm.boot.
func (v *chVMM) boot() error {
	v.events.tell("vm", "booting")
	if err := v.power(); err != nil {
		return chain{"Error booting VM", err.Error()}
	}
	v.events.tell("vm", "booted")
	return nil
}

// power makes the devices and lets the CPUs run.
func (v *chVMM) power() error {
	if v.serial == nil { // it was let go of at the VM's end
		if err := v.makeSerial(); err != nil {
			return err
		}
	}
	config, err := v.openFiles()
	if err != nil {
		return err
	}
	if v.shares == nil {
		if v.shares, err = connectShares(v.shareSockets()); err != nil {
			return fmt.Errorf("cannot create virtio-fs device: %w", err)
		}
	}
	v.guest = newGuest(v.name, v.plan, config, v.shares, v.netDir)
	v.guest.console.keeps = v.major >= 53
	if err := v.makeVsock(config); err != nil {
		return err
	}
	if v.serial != nil {
		go serveSerial(v.serial, v.guest.console)
	}
	v.state = chRunning
	go v.activate(v.guest)
	go v.guest.boot()
	return nil
}

func (v *chVMM) makeVsock(config guestconfig.Config) error {
	if v.config.Vsock == nil {
		return nil
	}
	listener, err := v.listen(v.config.Vsock.Socket)
	if err != nil {
		return fmt.Errorf("cannot create virtio-vsock backend: UnixBind(%w)", err)
	}
	v.vsock = &chVsock{listener: listener, guest: v.guest, port: config.Link.VsockPort, fault: v.plan.VMM.Sockets}
	go v.vsock.serve()
	return nil
}

// activate tells of each device that the guest's drivers have taken.
func (v *chVMM) activate(g *guest) {
	<-g.drivers
	for _, id := range v.config.deviceIDs() {
		v.events.tellOf("virtio-device", "activated", map[string]string{"id": id})
	}
}

// openFiles opens all that has a path, and looks at the taps.
func (v *chVMM) openFiles() (guestconfig.Config, error) {
	var config guestconfig.Config
	for _, n := range v.config.Net {
		for _, fd := range n.fds {
			if err := checkCHTap(fd, len(n.fds) > 1); err != nil {
				return config, fmt.Errorf("cannot create virtio-net device: %w", err)
			}
		}
	}
	files := map[string]int{v.config.Payload.Kernel: os.O_RDONLY}
	for _, d := range v.config.Disks {
		files[d.Path] = os.O_RDWR
		if d.Readonly {
			files[d.Path] = os.O_RDONLY
		}
	}
	for name, mode := range files {
		f, err := os.OpenFile(name, mode, 0)
		if err != nil {
			return config, fmt.Errorf("cannot open %w", err)
		}
		_ = f.Close()
	}
	return readGuestConfig(v.config.Payload.Initramfs)
}

// checkCHTap refuses a descriptor that is no tap as virtio needs it, or none of
// as many queues.
func checkCHTap(fd int, several bool) error {
	request, err := unix.NewIfreq("")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.TUNGETIFF, request); err != nil {
		return fmt.Errorf("fd %d is no tap: %w", fd, err)
	}
	wanted := uint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if several {
		wanted |= unix.IFF_MULTI_QUEUE
	}
	if flags := request.Uint16(); flags&wanted != wanted {
		return fmt.Errorf("tap %s, fd %d: flags %#x lack some of %#x", request.Name(), fd, flags, wanted)
	}
	return unix.SetNonblock(fd, true)
}

func (v *chVMM) shareSockets() map[string]string {
	sockets := map[string]string{}
	for _, f := range v.config.FS {
		sockets[f.Tag] = f.Socket
	}
	return sockets
}

// shutDown ends the VM; the VMM stays, and could boot it again.
func (v *chVMM) shutDown() {
	if v.guest == nil {
		return
	}
	v.guest.freeze(true) // for good
	v.guest.console.hangUp()
	if v.vsock != nil {
		v.vsock.close()
		_ = os.Remove(v.config.Vsock.Socket)
	}
	if v.serial != nil {
		_ = v.serial.Close()
		_ = os.Remove(v.config.Serial.Socket)
	}
	for _, s := range v.shares {
		_ = s.conn.Close()
	}
	v.guest, v.vsock, v.serial, v.shares, v.state = nil, nil, nil, nil, chCreated
	v.events.tell("vm", "shutdown")
}

const (
	// chReconnect is how long a rebooting VMM looks for its virtiofsds, which have
	// ended with their connections, and chReconnectPause how often.
	chReconnect      = time.Minute
	chReconnectPause = 100 * time.Millisecond
)

// reboot is what a guest gets that resets its machine. Nothing else is done
// meanwhile.
func (v *chVMM) reboot() error {
	v.events.tell("vm", "rebooting")
	v.shutDown()
	var err error
	for began := time.Now(); time.Since(began) < chReconnect; time.Sleep(chReconnectPause) {
		if v.shares, err = connectShares(v.shareSockets()); err == nil {
			break
		}
	}
	if err == nil {
		err = v.power()
	}
	if err != nil {
		return chain{"Error rebooting VM", err.Error()}
	}
	v.events.tell("vm", "rebooted")
	return nil
}

// info is the body of vm.info. Before v53 what is not set is null.
func (v *chVMM) info() []byte {
	devices := map[string]any{}
	for i, id := range v.config.deviceIDs() {
		devices[id] = map[string]any{"id": id, "resources": []any{}, "children": []string{}, "pci_bdf": fmt.Sprintf("0000:00:%02x.0", i+1)}
	}
	state := v.state
	if v.plan.VMM.State != "" {
		state = v.plan.VMM.State
	}
	body, err := json.Marshal(map[string]any{
		"config": v.config, "state": state, "memory_actual_size": v.config.Memory.Size, "device_tree": devices,
	})
	if err != nil {
		panic(err) // types of this file
	}
	return body
}
