package preflight

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// userNamespaces matter twice: the image is built in one that root makes, and
// the virtiofsd of a share, which is no root, makes one of its own.
func (h Host) userNamespaces() Result {
	switch {
	case h.sysctl("user/max_user_namespaces") == "0":
		return fail("user.max_user_namespaces is 0: no virtiofsd and no image build can have one",
			"sudo sysctl -w user.max_user_namespaces=15000", keep("user.max_user_namespaces=15000"))
	case h.sysctl("kernel/unprivileged_userns_clone") == "0":
		return fail("kernel.unprivileged_userns_clone is 0: the virtiofsd of a share, which does not run as root, can't have one",
			"sudo sysctl -w kernel.unprivileged_userns_clone=1", keep("kernel.unprivileged_userns_clone=1"))
	case h.sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" && !h.virtiofsdProfile():
		return fail("AppArmor lets no program of a user's have one (kernel.apparmor_restrict_unprivileged_userns is 1), and /etc/apparmor.d has no profile that lets virtiofsd",
			"let virtiofsd: write to /etc/apparmor.d/virtiofsd: abi <abi/4.0>, include <tunables/global> profile virtiofsd /usr/{libexec,lib/qemu,lib}/virtiofsd flags=(unconfined) { userns, }",
			"then: sudo apparmor_parser -r /etc/apparmor.d/virtiofsd",
			"or let all programs: sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0")
	}
	if !h.root() && h.sysctl("kernel/apparmor_restrict_unprivileged_userns") == "1" {
		return ok("AppArmor's profile lets virtiofsd make one")
	}
	if err := h.tryUserNamespace(); err != nil {
		return fail(fmt.Sprintf("none can be made: %v", err), "in a container: allow clone with CLONE_NEWUSER (Docker: --security-opt seccomp=unconfined, or --privileged)")
	}
	return ok("they can be made")
}

// keep is how a sysctl survives a reboot.
func keep(setting string) string {
	return "to keep it: echo " + setting + " | sudo tee /etc/sysctl.d/60-bield.conf"
}

// sysctl is "" where the kernel has no such setting.
func (h Host) sysctl(name string) string {
	text, err := os.ReadFile(h.path("proc/sys/" + name))
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(text))
}

// virtiofsdProfile looks for the profile that Ubuntu's apparmor brings.
func (h Host) virtiofsdProfile() bool {
	text, err := os.ReadFile(h.path("etc/apparmor.d/virtiofsd"))
	return err == nil && strings.Contains(string(text), "userns")
}

// tryUserNamespace makes one for a child that then has no program to run.
func (h Host) tryUserNamespace() error {
	if h.Root != "" {
		return nil
	}
	ids := func(id int) []syscall.SysProcIDMap {
		return []syscall.SysProcIDMap{{ContainerID: 0, HostID: id, Size: 1}}
	}
	_, err := os.StartProcess("/proc/self/fd/no-program", []string{"none"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids(os.Getuid()), GidMappings: ids(os.Getgid()),
	}})
	// Not found: the child was in its namespace when it looked.
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if inner := errors.Unwrap(err); inner != nil {
		return inner
	}
	return err
}
