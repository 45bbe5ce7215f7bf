package guest

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"bield/internal/guestconfig"
)

// Values of Config.Init.
const (
	initBield   = "bield"
	initSystemd = "systemd"
)

// maxVsockPort is LAST_RESERVED_PORT of Linux's net/vmw_vsock/af_vsock.c.
const maxVsockPort = 1023

// readConfig reads and checks what the host put into the initramfs.
func readConfig(path string) (guestconfig.Config, error) {
	var cfg guestconfig.Config
	if err := readJSON(path, &cfg); err != nil {
		return cfg, fmt.Errorf("read this VM's configuration: %w", err)
	}
	if err := checkConfig(cfg); err != nil {
		return cfg, fmt.Errorf("configuration %s: %w", path, err)
	}
	return cfg, nil
}

// readLink reads how the link comes, whatever is wrong with all the rest: the
// host is to hear of that over it. Where nothing can be read it is a port.
func readLink(path string) guestconfig.Link {
	var cfg struct {
		Link guestconfig.Link `json:"link"`
	}
	_ = readJSON(path, &cfg) // readConfig tells of it
	return cfg.Link
}

func readJSON(path string, v any) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

// checkConfig refuses what would break a file that is written from it. The
// host has checked the values as such.
func checkConfig(cfg guestconfig.Config) error {
	if cfg.Version != guestconfig.Version {
		return fmt.Errorf("version %d, but this bield-init knows %d: build the image again", cfg.Version, guestconfig.Version)
	}
	var errs []error
	if cfg.Init != initBield && cfg.Init != initSystemd {
		errs = append(errs, fmt.Errorf("init %q is neither %q nor %q", cfg.Init, initBield, initSystemd))
	}
	if cfg.Link.VsockPort > maxVsockPort {
		errs = append(errs, fmt.Errorf("link: vsock port %d is above %d: every process could take it", cfg.Link.VsockPort, maxVsockPort))
	}
	if (cfg.Root.Tag == "") == (cfg.Root.Disk == "") {
		errs = append(errs, errors.New("root needs either a tag or a disk"))
	}
	if !plain(cfg.Hostname) {
		errs = append(errs, fmt.Errorf("host name %q", cfg.Hostname))
	}
	errs = append(errs, checkPath("host key", cfg.HostKey), checkUser(cfg.User), checkNetwork(cfg.Network))
	for _, s := range cfg.Shares {
		errs = append(errs, checkPath("share "+s.Tag, s.MountPoint))
	}
	return errors.Join(errs...)
}

func checkUser(u guestconfig.User) error {
	var errs []error
	if !plain(u.Name) || strings.ContainsAny(u.Name, "*?!#,@\\\"'") {
		errs = append(errs, fmt.Errorf("user name %q", u.Name))
	}
	if u.UID == 0 {
		errs = append(errs, errors.New("the guest's user may not have uid 0: set `user` in the configuration"))
	}
	for _, k := range u.AuthorizedKeys {
		errs = append(errs, checkKey(k))
	}
	errs = append(errs, checkPath("home", u.Home), checkPath("shell", u.Shell))
	return errors.Join(errs...)
}

func checkKey(k string) error {
	if strings.ContainsAny(k, "\n\r\x00") {
		return errors.New("authorized key of more than one line")
	}
	return nil
}

func checkNetwork(n guestconfig.Network) error {
	var errs []error
	if _, err := net.ParseMAC(n.MAC); err != nil {
		errs = append(errs, fmt.Errorf("network: %w", err))
	}
	if p, err := netip.ParsePrefix(n.Address); err != nil || !p.Addr().Is4() {
		errs = append(errs, fmt.Errorf("network: address %q is no IPv4 prefix", n.Address))
	}
	for _, a := range append([]string{n.Gateway}, n.Nameservers...) {
		if _, err := netip.ParseAddr(a); err != nil {
			errs = append(errs, fmt.Errorf("network: %w", err))
		}
	}
	return errors.Join(errs...)
}

// plain holds for a field of /etc/passwd or /etc/hosts.
func plain(s string) bool {
	return s != "" && s[0] != '-' && !strings.ContainsFunc(s, func(r rune) bool {
		return r <= ' ' || r == 0x7f || r == ':' || r == '/'
	})
}

func checkPath(what, p string) error {
	if !filepath.IsAbs(p) || filepath.Clean(p) != p || strings.ContainsAny(p, ":\n\r\x00\"") {
		return fmt.Errorf("%s: path %q is not absolute, clean and free of quotes and colons", what, p)
	}
	return nil
}
