package guest

import (
	"debug/elf"
	"os"

	"golang.org/x/sys/unix"
)

// prefetch asks for the pages of a program and its libraries while the boot
// does something else: over virtiofs each page fault of theirs is a question
// to the host. It is a hint; what goes wrong is left out.
func (t tree) prefetch(programs ...string) {
	seen := make(map[string]bool)
	for _, p := range programs {
		t.prefetchOne(p, seen)
	}
}

func (t tree) prefetchOne(path string, seen map[string]bool) {
	if path == "" || seen[path] {
		return
	}
	seen[path] = true
	f, err := os.Open(t.at(path))
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_WILLNEED)
	e, err := elf.NewFile(f)
	if err != nil {
		return
	}
	libraries, _ := e.ImportedLibraries()
	for _, l := range libraries {
		t.prefetchOne(t.findLibrary(l), seen)
	}
}

// findLibrary looks where Debian's and most other loaders look.
func (t tree) findLibrary(name string) string {
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib64/", "/usr/lib/"} {
		if t.exists(dir + name) {
			return dir + name
		}
	}
	return ""
}
