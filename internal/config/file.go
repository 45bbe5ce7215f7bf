package config

// The structs below are the file's shape and the one source of the options:
// the decoder, the JSON Schema and the tables of docs/configuration.md are all
// made from their fields. Tags: `yaml` is the option's name;
// `jsonschema_description` its meaning; `jsonschema` holds constraints and
// constant defaults; `default` says in words what holds without the option;
// `example` is a value that is right.

type hostFile struct {
	VMs               map[string]*vmFile `yaml:"vms" default:"none" example:"{claude-home: {ip: 192.168.83.2, workspace: ~/src/app}}" jsonschema_description:"The VMs by name. A name is also the guest's host name: at most 63 of a-z 0-9 and -."`
	Bridge            *string            `yaml:"bridge" example:"microbr" jsonschema:"default=microbr,minLength=1,maxLength=15" jsonschema_description:"The bridge that the VMs are on. It is made if it is missing."`
	Subnet            *string            `yaml:"subnet" example:"192.168.83" jsonschema:"default=192.168.83" jsonschema_description:"The VMs' network: the first three octets of a /24 or a CIDR. Its first address is the host's own."`
	StateDir          *string            `yaml:"stateDir" example:"/srv/bield" jsonschema:"default=/var/lib/bield" jsonschema_description:"The folder in which the host keeps what outlives a VM: its SSH host keys and what was applied."`
	ExternalInterface *string            `yaml:"externalInterface" default:"any but the bridge" example:"eth0" jsonschema:"minLength=1,maxLength=15" jsonschema_description:"The interface that guests reach the outside through."`
	Nameservers       []string           `yaml:"nameservers" default:"[1.1.1.1, 8.8.8.8]" example:"[192.168.1.1]" jsonschema:"maxItems=3" jsonschema_description:"The name servers that guests ask: up to three IPv4 addresses."`
	Shares            []shareFile        `yaml:"shares" default:"none" example:"[{source: ~/.claude}]" jsonschema_description:"Host folders that every VM mounts."`
	User              *userFile          `yaml:"user" default:"the owner of the VM's workspace" example:"{name: alice}" jsonschema_description:"The person inside the guests."`
	Image             *imageFile         `yaml:"image" default:"the host's own distribution" example:"{suite: bookworm}" jsonschema_description:"What the guests' root file system is made from."`
	Hypervisor        *string            `yaml:"hypervisor" example:"qemu" jsonschema:"default=auto,enum=auto,enum=qemu,enum=cloud-hypervisor" jsonschema_description:"The program that runs the VMs; auto takes cloud-hypervisor where it is installed and the host has KVM, else qemu."`
	Init              *string            `yaml:"init" example:"systemd" jsonschema:"default=bield,enum=bield,enum=systemd" jsonschema_description:"What runs as PID 1 once the guest is prepared: bield's own small init or the image's systemd."`
	StopTimeout       *seconds           `yaml:"stopTimeout" default:"10s" example:"30s" jsonschema_description:"How long a guest may take to power off before it is stopped by force: seconds or a duration from 1s to 1h."`
	Restart           *string            `yaml:"restart" example:"on-failure" jsonschema:"default=never,enum=never,enum=on-failure,enum=always" jsonschema_description:"Start a VM again that has ended by itself: never; when it failed; or also when its guest powered off. The pause before doubles from a second to five minutes."`
	RestartIfChanged  *bool              `yaml:"restartIfChanged" example:"false" jsonschema:"default=true" jsonschema_description:"Let apply restart a running VM whose options or image have changed. Without it, ls says that a restart is needed."`
	MemoryReserve     *memory            `yaml:"memoryReserve" default:"1G" example:"2G" jsonschema_description:"How much of the host's memory must stay available when a VM starts, in MB or as 512M or 4G."`
	MemoryOvercommit  *ratio             `yaml:"memoryOvercommit" default:"none: what running VMs hold counts" example:"1.5" jsonschema_description:"How often the host's memory may be promised: the sum of all mem of running VMs stays below this multiple of the memory beside memoryReserve."`
	Egress            *egressFile        `yaml:"egress" default:"public" example:"{mode: allowlist, names: [anthropic, npm]}" jsonschema_description:"Where guests may go: a mode alone, or options."`
	TrustBridge       *bool              `yaml:"trustBridge" example:"true" jsonschema:"default=false" jsonschema_description:"Let guests reach every service of the host. Without it the host takes nothing from them but answers, pings, and questions to bield's own resolver."`
	HostPorts         []string           `yaml:"hostPorts" default:"none" example:"[tcp/8080]" jsonschema_description:"Ports of the host that guests may reach nevertheless."`
	GuestToGuest      *bool              `yaml:"guestToGuest" example:"true" jsonschema:"default=false" jsonschema_description:"Let guests reach each other."`
}

type vmFile struct {
	IP               *string     `yaml:"ip" example:"192.168.83.2" jsonschema:"required,format=ipv4" jsonschema_description:"The VM's IPv4 address in the host's subnet."`
	Workspace        *string     `yaml:"workspace" example:"~/src/app" jsonschema:"required,minLength=1" jsonschema_description:"The host folder that the guest sees live at /workspace."`
	ExtraPackages    []string    `yaml:"extraPackages" default:"[]" example:"[nodejs, npm]" jsonschema_description:"Debian packages that the image has beside the base ones."`
	VCPU             *int        `yaml:"vcpu" default:"8, but no more than the host's cores where there is no KVM" example:"4" jsonschema:"minimum=1,maximum=255" jsonschema_description:"The number of virtual CPUs."`
	Mem              *memory     `yaml:"mem" default:"4096" example:"4G" jsonschema_description:"Memory in MB (of 1024 KB) or as 512M or 4G: from 128 MB to what the host has."`
	Autostart        *bool       `yaml:"autostart" example:"true" jsonschema:"default=false" jsonschema_description:"Start the VM together with the host daemon."`
	MAC              *string     `yaml:"mac" default:"made from the VM's name" example:"02:00:00:01:b8:4b" jsonschema_description:"The MAC address of the guest's interface."`
	Shares           []shareFile `yaml:"shares" default:"none" example:"[{source: /srv/data, readOnly: true}]" jsonschema_description:"Host folders that this VM mounts beside the host's shares."`
	User             *userFile   `yaml:"user" default:"the host's user" example:"{name: alice}" jsonschema_description:"The person inside this guest."`
	StoreOnDisk      *bool       `yaml:"storeOnDisk" example:"true" jsonschema:"default=false" jsonschema_description:"Give the guest its root as an EROFS disk and not from the image folder over virtiofs."`
	Image            *imageFile  `yaml:"image" default:"the host's image" example:"{suite: trixie}" jsonschema_description:"What this guest's root file system is made from; each option that is not set is the host's."`
	Hypervisor       *string     `yaml:"hypervisor" default:"the host's hypervisor" example:"qemu" jsonschema:"enum=auto,enum=qemu,enum=cloud-hypervisor" jsonschema_description:"The program that runs this VM."`
	Init             *string     `yaml:"init" default:"the host's init" example:"systemd" jsonschema:"enum=bield,enum=systemd" jsonschema_description:"What runs as PID 1 in this guest."`
	StopTimeout      *seconds    `yaml:"stopTimeout" default:"the host's stopTimeout" example:"30s" jsonschema_description:"How long this guest may take to power off."`
	Restart          *string     `yaml:"restart" default:"the host's restart" example:"on-failure" jsonschema:"enum=never,enum=on-failure,enum=always" jsonschema_description:"Start this VM again when it has ended by itself."`
	Egress           *egressFile `yaml:"egress" default:"the host's egress" example:"open" jsonschema_description:"Where this guest may go; each option that is not set is the host's."`
	RestartIfChanged *bool       `yaml:"restartIfChanged" default:"the host's restartIfChanged" example:"false" jsonschema_description:"Let apply restart this VM when it has changed."`
}

type shareFile struct {
	Source     *string  `yaml:"source" example:"~/.claude" jsonschema:"required,minLength=1" jsonschema_description:"The host folder."`
	MountPoint *string  `yaml:"mountPoint" default:"the same path as source" example:"/home/alice/.claude" jsonschema_description:"Where the guest mounts it."`
	Tag        *string  `yaml:"tag" default:"made from the last part of source" example:"claude-config" jsonschema:"minLength=1,maxLength=36" jsonschema_description:"The name of the virtiofs device; no two shares of a VM have the same."`
	ReadOnly   *bool    `yaml:"readOnly" example:"true" jsonschema:"default=false" jsonschema_description:"Refuse all writing by the guest. The default for /nix/store is true."`
	User       *account `yaml:"user" default:"the owner of source" example:"alice" jsonschema_description:"The host user, by name or uid, that the folder is served as. Needed to share a folder of root's for writing."`
}

type userFile struct {
	Name           *string  `yaml:"name" default:"the name of uid, or of the owner of the workspace" example:"alice" jsonschema:"minLength=1,maxLength=32" jsonschema_description:"The user's name in the guest. A user of the host gives the uid, gid, home and public keys too."`
	UID            *uint32  `yaml:"uid" default:"the uid of name on the host" example:"1000" jsonschema:"minimum=100" jsonschema_description:"The user's number, the same on host and guest."`
	GID            *uint32  `yaml:"gid" default:"the user's group on the host, or the same number as uid" example:"1000" jsonschema:"minimum=100" jsonschema_description:"The number of the user's group."`
	Home           *string  `yaml:"home" default:"the user's home on the host, or /home/NAME" example:"/home/alice" jsonschema_description:"The home folder in the guest. It is made anew at each start."`
	Shell          *string  `yaml:"shell" example:"/bin/bash" jsonschema:"default=/bin/zsh" jsonschema_description:"The login shell in the guest."`
	AuthorizedKeys []string `yaml:"authorizedKeys" default:"the lines of the user's ~/.ssh/*.pub" example:"[ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILVSSM2XYbJUxJwmJ+4qcQGmxnLIAfk5HNZYkOVp8jF8 alice]" jsonschema_description:"The public keys that may log in, beside those that bield makes."`
}

type imageFile struct {
	Suite   *string `yaml:"suite" default:"the host's own" example:"bookworm" jsonschema_description:"The release of the distribution."`
	Mirror  *string `yaml:"mirror" default:"the host's own distribution sources" example:"https://mirror.example/debian" jsonschema:"format=uri" jsonschema_description:"Where packages come from: a URL of http, https or file, without a password."`
	Keyring *string `yaml:"keyring" default:"the host's own" example:"/usr/share/keyrings/debian-archive-keyring.gpg" jsonschema_description:"The file of keys that the mirror's signatures are checked with."`
}

// egressFile may be written as its mode alone.
type egressFile struct {
	Mode  *string  `yaml:"mode" short:"true" example:"allowlist" jsonschema:"default=public,enum=open,enum=public,enum=allowlist,enum=none" jsonschema_description:"open: wherever the host would route it, the LAN as well. public: the internet, but no private address and none of the host's. allowlist: the names that are listed. none: nowhere. In every mode also what allow lists."`
	Names []string `yaml:"names" default:"none" example:"[anthropic, github, npm, '*.example.org', 'example.com:8443']" jsonschema_description:"What the mode allowlist opens: names, *. for all names below one, and presets; without a port 80 and 443."`
	Allow []string `yaml:"allow" default:"none" example:"[10.0.0.5:443, git.corp.example]" jsonschema_description:"What is open in every mode, private or not: names, addresses and networks; without a port, any."`
}
