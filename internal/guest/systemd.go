package guest

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"bield/internal/guestconfig"
)

// What the service under systemd goes on from.
const (
	programCopy = runDir + "/bield-init"
	configCopy  = runDir + "/guest.json"
	journalCopy = runDir + "/events.json"
	unitDir     = "/etc/systemd/system"
	guestUnit   = "bield-guest.service"
	sshdUnit    = "bield-sshd.service"
	earlyWants  = unitDir + "/sysinit.target.wants"
	// ServiceVerb is the argument with which systemd starts this program.
	ServiceVerb = "service"
)

// systemdPaths are tried in order.
func systemdPaths() []string { return []string{"/usr/lib/systemd/systemd", "/lib/systemd/systemd"} }

// maskedUnits would change the static network, ask for logins that nobody has,
// or take a package lock and CPU from the user.
func maskedUnits() []string {
	return []string{
		"systemd-networkd.service", "systemd-networkd.socket", "systemd-networkd-wait-online.service",
		"systemd-resolved.service", "networking.service", "NetworkManager.service", "dhcpcd.service",
		"systemd-timesyncd.service", "systemd-firstboot.service",
		// of no use without a disk, and slow without KVM
		"systemd-random-seed.service", "systemd-repart.service", "systemd-update-utmp.service",
		"systemd-update-utmp-runlevel.service", "systemd-pcrphase.service", "systemd-pcrphase-sysinit.service",
		"modprobe@drm.service", "modprobe@efi_pstore.service", "systemd-pstore.service", "dev-hugepages.mount",
		"getty@.service", "getty@tty1.service", "serial-getty@.service", "console-getty.service", "getty-static.service",
		"ssh.service", "ssh.socket", "sshd.service", "sshd-keygen.service",
		"apt-daily.timer", "apt-daily-upgrade.timer", "apt-daily.service", "apt-daily-upgrade.service",
		"man-db.timer", "fstrim.timer", "e2scrub_all.timer",
	}
}

// maskedGenerators look for what a guest has not: disks, terminals, a resume.
// "ssh" would start an sshd of systemd's own on vsock and on a unix socket.
func maskedGenerators() []string {
	return []string{"ssh", "cryptsetup", "fstab", "getty", "gpt-auto", "hibernate-resume", "integritysetup", "veritysetup", "system-update", "bless-boot"}
}

// keepProgram copies this program out of the initramfs, which is about to be
// freed. The copy lies in the new root, whose /run is mounted later.
func (b *boot) keepProgram() error {
	if b.cfg.Init != initSystemd {
		return nil
	}
	from, err := os.Open("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("keep bield-init: %w", err)
	}
	defer from.Close()
	fd, err := unix.MemfdCreate("bield-init", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("keep bield-init: %w", err)
	}
	b.program = os.NewFile(uintptr(fd), "bield-init")
	if _, err := io.Copy(b.program, from); err != nil {
		return fmt.Errorf("keep bield-init: %w", err)
	}
	return nil
}

// becomeSystemd writes what the service needs, ends the link and executes the
// image's systemd. It returns only with an error.
func (b *boot) becomeSystemd(ctx context.Context) error {
	systemd, err := findSystemd(b.root)
	if err != nil {
		return err
	}
	if err := prepareSSHD(b.root, b.cfg); err != nil {
		return err
	}
	if err := b.writeService(); err != nil {
		return err
	}
	if err := writeUnits(b.root); err != nil {
		return err
	}
	b.stopLink()
	b.linkDone.Wait()
	if err := b.journal.save(b.root.at(journalCopy)); err != nil {
		return b.linkAgain(ctx, err)
	}
	return b.linkAgain(ctx, fmt.Errorf("execute %s: %w", systemd, unix.Exec(systemd, []string{systemd}, append(daemonEnv(), "TERM=linux"))))
}

// linkAgain makes sure that the host hears of a failure after the link ended.
func (b *boot) linkAgain(ctx context.Context, err error) error {
	return errors.Join(err, b.startLink(ctx, b.cfg.Link))
}

func findSystemd(t tree) (string, error) {
	for _, p := range systemdPaths() {
		if t.exists(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("the image has no systemd: add the package systemd-sysv, or set `init: bield`")
}

// writeService writes the program and its configuration for the service.
func (b *boot) writeService() error {
	cfg, err := json.Marshal(b.cfg)
	if err != nil {
		return fmt.Errorf("write the service: %w", err)
	}
	if err := b.root.write(configCopy, string(cfg), 0o600, owner{}); err != nil {
		return err
	}
	defer b.program.Close()
	if _, err := b.program.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("write the service: %w", err)
	}
	to, err := os.OpenFile(b.root.at(programCopy), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o755)
	if err != nil {
		return fmt.Errorf("write the service: %w", err)
	}
	_, err = io.Copy(to, b.program)
	if err = firstError(err, to.Close()); err != nil {
		return fmt.Errorf("write the service: %w", err)
	}
	return nil
}

// writeUnits writes into /etc, which is forgotten like all the rest and which,
// unlike /run, comes before units that the image has there.
func writeUnits(t tree) error {
	argv := sshdCommand(t)
	units := map[string]string{
		unitDir + "/" + guestUnit:               guestUnitText(),
		unitDir + "/" + sshdUnit:                sshdUnitText(argv),
		"/etc/systemd/system.conf.d/bield.conf": managerText,
	}
	for path, text := range units {
		if err := t.write(path, text, 0o644, owner{}); err != nil {
			return err
		}
	}
	for _, u := range []string{guestUnit, sshdUnit} {
		if err := t.link("../"+u, earlyWants+"/"+u); err != nil {
			return err
		}
	}
	return t.maskAll()
}

func (t tree) maskAll() error {
	var paths []string
	for _, u := range maskedUnits() {
		paths = append(paths, unitDir+"/"+u)
	}
	for _, g := range maskedGenerators() {
		paths = append(paths, "/etc/systemd/system-generators/systemd-"+g+"-generator")
	}
	for _, p := range paths {
		if err := t.link("/dev/null", p); err != nil {
			return err
		}
	}
	return t.markUpdated()
}

// markUpdated spares systemd what it does after /usr has changed
// (systemd-update-done.service(8)): it would take every boot for such a one.
func (t tree) markUpdated() error {
	return firstError(t.write("/etc/.updated", "", 0o644, owner{}), t.write("/var/.updated", "", 0o644, owner{}))
}

// link makes a symbolic link in place of whatever is there.
func (t tree) link(target, path string) error {
	full := t.at(path)
	if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.RemoveAll(full); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	if err := os.Symlink(target, full); err != nil {
		return fmt.Errorf("link %s: %w", path, err)
	}
	return nil
}

// managerText keeps a stop below the time that the host waits.
const managerText = `[Manager]
DefaultTimeoutStopSec=4s
DefaultTimeoutAbortSec=4s
ShowStatus=no
`

func guestUnitText() string {
	return `[Unit]
Description=bield guest link
DefaultDependencies=no
ConditionPathExists=` + programCopy + `

[Service]
ExecStart=` + programCopy + ` ` + ServiceVerb + `
Restart=always
RestartSec=200ms
OOMScoreAdjust=-900
StartupCPUWeight=10000
StandardOutput=null
StandardError=journal
`
}

// sshdUnitText starts early: network, user and keys are there already.
func sshdUnitText(argv []string) string {
	command := argv[0]
	for _, a := range argv[1:] {
		command += " " + a
	}
	return `[Unit]
Description=OpenSSH for the user of bield
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target
StartLimitIntervalSec=0

[Service]
ExecStart=` + command + `
Environment=LANG=C.UTF-8
RuntimeDirectory=sshd
RuntimeDirectoryPreserve=yes
Restart=always
RestartSec=200ms
StartupCPUWeight=10000
SendSIGHUP=yes
TimeoutStopSec=3s
LimitNOFILE=65536:524288
`
}

// machineID is the same at every boot of a VM, as that of an installed
// machine is (machine-id(5)).
func machineID(cfg guestconfig.Config) string {
	sum := sha256.Sum256([]byte("bield machine-id\n" + cfg.Hostname + "\n" + cfg.Network.MAC))
	return hex.EncodeToString(sum[:16])
}
