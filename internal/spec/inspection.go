package spec

// Inspection is all that is known of one VM: what `bield inspect` shows.
type Inspection struct {
	Status VMStatus `json:"status"`
	// Origin is the file that declares the VM.
	Origin string `json:"origin,omitempty"`
	// Declared is what the applied spec asks for; nil when it no longer has
	// the VM. Running is what the VM was started as; nil when nothing of it is
	// there.
	Declared *VM `json:"declared,omitempty"`
	Running  *VM `json:"running,omitempty"`
	// Image is the digest of the image it runs on.
	Image string `json:"image,omitempty"`
	// Processes are those alive, the VMM first.
	Processes []Process `json:"processes"`
	// Limits are what they may use together; nil where the host can set none.
	Limits *Limits `json:"limits,omitempty"`
	Files  Files   `json:"files"`
}

// Limits are those of a VM's control group.
type Limits struct {
	// Groups are its folders, one a hierarchy.
	Groups    []string `json:"groups"`
	MemoryMiB int      `json:"memoryMiB"`
	// Processes counts threads as well.
	Processes int `json:"processes"`
	CPUs      int `json:"cpus"`
}

// Process is a program of a VM's on the host.
type Process struct {
	// Program is "vmm" or "virtiofsd"; Share is then the tag.
	Program string `json:"program"`
	Share   string `json:"share,omitempty"`
	PID     int    `json:"pid"`
	UID     uint32 `json:"uid"`
	// RSS and PSS are in bytes, the program's children included. A VM's
	// programs share the guest's memory: PSS divides it among them.
	RSS uint64 `json:"rss"`
	PSS uint64 `json:"pss"`
}

// Files are paths of a VM's. What is only there while it runs is empty
// otherwise.
type Files struct {
	Console    string `json:"console"`
	State      string `json:"state"`
	Record     string `json:"record,omitempty"`
	Run        string `json:"run,omitempty"`
	KnownHosts string `json:"knownHosts,omitempty"`
	// Sockets and Logs are by what they belong to: "qmp", "serial", "link",
	// "vmm", "share TAG".
	Sockets map[string]string `json:"sockets,omitempty"`
	Logs    map[string]string `json:"logs,omitempty"`
}
