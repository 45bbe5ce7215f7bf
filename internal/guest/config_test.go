package guest

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"bield/internal/guestconfig"
)

func TestReadConfig(t *testing.T) {
	path := filepath.Join(t.TempDir(), "guest.json")
	b, err := json.Marshal(testConfig())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := readConfig(path)
	if err != nil || cfg.Hostname != "claude-home" {
		t.Fatalf("%+v, %v", cfg, err)
	}
	if err := os.WriteFile(path, b[:20], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readConfig(path); err == nil {
		t.Fatal("read half a file")
	}
	if _, err := readConfig(path + "x"); err == nil {
		t.Fatal("read no file")
	}
}

func TestCheckConfig(t *testing.T) {
	tests := map[string]struct {
		change func(*guestconfig.Config)
		want   string
	}{
		"good":               {func(*guestconfig.Config) {}, ""},
		"disk":               {func(c *guestconfig.Config) { c.Root = guestconfig.Root{Disk: "/dev/vda"} }, ""},
		"other version":      {func(c *guestconfig.Config) { c.Version = 9 }, "build the image again"},
		"vsock":              {func(c *guestconfig.Config) { c.Link.VsockPort = guestconfig.LinkVsockPort }, ""},
		"anybody's port":     {func(c *guestconfig.Config) { c.Link.VsockPort = 1024 }, "every process could take it"},
		"init":               {func(c *guestconfig.Config) { c.Init = "runit" }, `"runit"`},
		"no root":            {func(c *guestconfig.Config) { c.Root.Tag = "" }, "either a tag or a disk"},
		"two roots":          {func(c *guestconfig.Config) { c.Root.Disk = "/dev/vda" }, "either a tag or a disk"},
		"root as user":       {func(c *guestconfig.Config) { c.User.UID = 0 }, "uid 0"},
		"passwd injection":   {func(c *guestconfig.Config) { c.User.Name = "a\nroot::0:0::/:/bin/sh" }, "user name"},
		"pattern as user":    {func(c *guestconfig.Config) { c.User.Name = "*" }, "user name"},
		"option as name":     {func(c *guestconfig.Config) { c.Hostname = "-x" }, "host name"},
		"two lines of key":   {func(c *guestconfig.Config) { c.User.AuthorizedKeys = []string{"a\nb"} }, "more than one line"},
		"relative home":      {func(c *guestconfig.Config) { c.User.Home = "home" }, "home"},
		"home with colon":    {func(c *guestconfig.Config) { c.User.Home = "/home:x" }, "home"},
		"share climbs":       {func(c *guestconfig.Config) { c.Shares[0].MountPoint = "/a/../../b" }, "share workspace"},
		"MAC":                {func(c *guestconfig.Config) { c.Network.MAC = "eth0" }, "network"},
		"IPv6":               {func(c *guestconfig.Config) { c.Network.Address = "::1/64" }, "IPv4"},
		"gateway":            {func(c *guestconfig.Config) { c.Network.Gateway = "" }, "network"},
		"resolv.conf tricks": {func(c *guestconfig.Config) { c.Network.Nameservers = []string{"1.1.1.1\noptions x"} }, "network"},
		"no host key":        {func(c *guestconfig.Config) { c.HostKey = "" }, "host key"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			cfg := testConfig()
			tt.change(&cfg)
			err := checkConfig(cfg)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Fatalf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestLoadOrder(t *testing.T) {
	all := guestconfig.Modules{
		{Name: "virtio"}, {Name: "virtio_ring", Deps: []string{"virtio"}},
		{Name: "virtio_rng", Deps: []string{"virtio"}}, {Name: "fuse"},
		{Name: "virtiofs", Deps: []string{"fuse", "virtio_ring", "virtio"}},
		{Name: "a", Deps: []string{"b"}}, {Name: "b", Deps: []string{"a"}},
	}
	tests := map[string]struct {
		wanted string
		want   string
	}{
		"with what it needs":   {"virtiofs", "fuse virtio virtio_ring virtiofs"},
		"once each":            {"fuse virtiofs fuse virtio", "fuse virtio virtio_ring virtiofs"},
		"dash for underscore":  {"virtio-rng", "virtio virtio_rng"},
		"built in is skipped":  {"overlay fuse", "fuse"},
		"nothing":              {"", ""},
		"a circle has its end": {"a", "b a"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, m := range loadOrder(all, strings.Fields(tt.wanted)) {
				got = append(got, m.Name)
			}
			if strings.Join(got, " ") != tt.want {
				t.Fatalf("got %v, want %s", got, tt.want)
			}
		})
	}
}

func TestLoadModuleNamesIt(t *testing.T) {
	err := loadModules(guestconfig.Modules{{Name: "overlay", File: filepath.Join(t.TempDir(), "overlay.ko")}})
	if err == nil || !strings.Contains(err.Error(), "load module overlay") {
		t.Fatalf("got %v", err)
	}
}
