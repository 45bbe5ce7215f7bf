package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestSealedHandles(t *testing.T) {
	seal := newHandleSeal()
	here := place{mount: 7, kind: 0xef53, birth: 1_700_000_000_123_456_789}
	kernels := unix.NewFileHandle(1, []byte("12345678"))
	sealed, err := seal.seal(kernels, here)
	if err != nil {
		t.Fatal(err)
	}
	again, err := seal.seal(kernels, here)
	if err != nil || !slices.Equal(sealed.Bytes(), again.Bytes()) {
		t.Errorf("one file has two handles: %x, %x, %v", sealed.Bytes(), again.Bytes(), err)
	}
	handle, where, err := seal.unseal(sealed, place{mount: 7, kind: 0xef53})
	if err != nil || where != here || handle.Type() != 1 || string(handle.Bytes()) != "12345678" {
		t.Errorf("%q of %+v, %v", handle.Bytes(), where, err)
	}
	stale := func(what string, seal handleSeal, h unix.FileHandle, p place) {
		t.Helper()
		if _, _, err := seal.unseal(h, p); !errors.Is(err, unix.ESTALE) {
			t.Errorf("%s: %v", what, err)
		}
	}
	stale("another mount", seal, sealed, place{mount: 8, kind: 0xef53})
	stale("another file system", seal, sealed, place{mount: 7, kind: 0x01021994})
	stale("another type", seal, unix.NewFileHandle(2, sealed.Bytes()), here)
	stale("another server", newHandleSeal(), sealed, here)
	stale("no seal", seal, kernels, here)
	for i := range sealed.Size() * 8 {
		bent := slices.Clone(sealed.Bytes())
		bent[i/8] ^= 1 << (i % 8)
		stale(fmt.Sprintf("bit %d", i), seal, unix.NewFileHandle(1, bent), here)
	}
	for n := 1; n < sealed.Size(); n++ {
		stale(fmt.Sprintf("%d bytes", n), seal, unix.NewFileHandle(1, sealed.Bytes()[:n]), here)
	}
	stale("a longer one", seal, unix.NewFileHandle(1, append(slices.Clone(sealed.Bytes()), 0)), here)
}

func TestSealNeedsRoom(t *testing.T) {
	for size, want := range map[int]error{maxHandleBytes - sealBytes: nil, maxHandleBytes - sealBytes + 1: unix.EOPNOTSUPP, maxHandleBytes: unix.EOPNOTSUPP} {
		sealed, err := newHandleSeal().seal(unix.NewFileHandle(1, make([]byte, size)), place{})
		if !errors.Is(err, want) || err == nil && sealed.Size() > maxHandleBytes {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

// asUser runs act on a thread of the test's user, which keeps no capability but the
// supervisor's and ends with it.
func asUser(t *testing.T, act func()) {
	t.Helper()
	needRoot(t)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := do(rawThread, "keep capabilities", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0)
		err = errors.Join(err, setIDs(rawThread, testUID, testGID, nil), setCapabilities(rawThread, 1<<unix.CAP_DAC_READ_SEARCH, 0))
		if err == nil {
			act()
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func openAt(t *testing.T, path string, flags int) int {
	t.Helper()
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// TestHandleOfAnEarlierFile: the number and the generation may be those of a
// file that has come since; ext4 takes generation 0 as any.
func TestHandleOfAnEarlierFile(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, dir, "file", testUID, testGID, 0o600)
	mount, path := openAt(t, dir, unix.O_RDONLY|unix.O_DIRECTORY), openAt(t, filepath.Join(dir, "file"), unix.O_PATH)
	forged(t, filepath.Join(dir, "file")) // or skip
	s := handleServer{uid: testUID, seal: newHandleSeal()}
	handle, _, err := unix.NameToHandleAt(path, "", unix.AT_EMPTY_PATH)
	if err != nil {
		t.Fatal(err)
	}
	asUser(t, func() {
		where, err := placeOf(path)
		if err != nil || where.birth == 0 || where.mount == 0 {
			t.Errorf("%+v, %v", where, err)
		}
		for back, want := range map[uint64]error{0: nil, 1: unix.ESTALE, where.birth: unix.ESTALE} {
			where := where
			where.birth -= back
			sealed, err := s.seal.seal(handle, where)
			if err != nil {
				t.Error(err)
			}
			fd, err := s.open(mount, sealed, unix.O_RDWR)
			if err == nil {
				unix.Close(fd)
			}
			if !errors.Is(err, want) {
				t.Errorf("born %d ns earlier: %v, want %v", back, err, want)
			}
		}
	})
}

// TestIssuedHandlesHaveOnlyTheUsersRights: also where the file has changed its
// owner or mode since.
func TestIssuedHandlesHaveOnlyTheUsersRights(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, dir, "secret", 0, 0, 0o600)
	makeFile(t, dir, "locked", testUID, testGID, 0)
	makeFile(t, dir, "mapped", testUID, testUID, 0)
	forged(t, filepath.Join(dir, "secret"))
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666); err != nil {
		t.Fatal(err)
	}
	mount := openAt(t, dir, unix.O_RDONLY|unix.O_DIRECTORY)
	inMap := &IDMap{Base: testUID, Count: 1}
	for _, tt := range []struct {
		name  string
		idMap *IDMap
		flags int
		want  error
	}{
		{"secret", nil, unix.O_RDONLY, unix.EACCES},
		{"secret", nil, unix.O_WRONLY, unix.EACCES},
		{"fifo", nil, unix.O_RDONLY, unix.ELOOP},
		{"locked", nil, unix.O_RDONLY, nil},
		{"locked", nil, unix.O_RDWR, unix.EACCES},
		{"locked", nil, unix.O_RDONLY | unix.O_TRUNC, unix.EACCES},
		{"secret", inMap, unix.O_RDONLY, unix.EPERM},
		{"locked", inMap, unix.O_RDONLY, unix.EPERM},
		{"mapped", inMap, unix.O_RDONLY, nil},
		{"mapped", inMap, unix.O_WRONLY, unix.EROFS},
	} {
		path := openAt(t, filepath.Join(dir, tt.name), unix.O_PATH)
		s := handleServer{uid: testUID, idMap: tt.idMap, seal: newHandleSeal()}
		asUser(t, func() {
			handle, _, err := unix.NameToHandleAt(path, "", unix.AT_EMPTY_PATH)
			where, placeErr := placeOf(path)
			sealed, sealErr := s.seal.seal(handle, where)
			if err := errors.Join(err, placeErr, sealErr); err != nil {
				t.Error(err)
				return
			}
			fd, err := s.open(mount, sealed, tt.flags)
			if err == nil {
				unix.Close(fd)
			}
			if !errors.Is(err, tt.want) {
				t.Errorf("%s, flags %#x, map %v: %v, want %v", tt.name, tt.flags, tt.idMap, err, tt.want)
			}
		})
	}
}

// TestHandleRoom: a program learns how large a handle is by offering no room.
func TestHandleRoom(t *testing.T) {
	c := program(t, "handle-room")
	c.FileHandles, c.Dir = true, filepath.Dir(c.Path)
	forged(t, c.Path)
	var got []roomResult
	p := start(t, c)
	if exit := wait(t, p); exit != (Exit{Known: true}) {
		t.Fatalf("%s: %q", exit, TailLog(c.LogPath, 5))
	}
	text, _ := os.ReadFile(c.LogPath)
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	size := got[0].Size
	want := []roomResult{{unix.EOVERFLOW, size, true}, {0, size, true}, {0, size, true}, {unix.EINVAL, maxHandleBytes + 1, false}}
	if size <= sealBytes || !slices.Equal(got, want) {
		t.Errorf("got %+v", got)
	}
}

// roomResult is the answer to an offer of room: the errno, the size in the
// handle afterwards, and whether the mount's id was told.
type roomResult struct {
	Errno unix.Errno
	Size  uint32
	Mount bool
}

// playHandleRoom offers no room, what was wanted then, all, and too much.
func playHandleRoom() {
	var results []roomResult
	dir, _ := unix.Open(".", unix.O_PATH, 0)
	for _, room := range []int{0, -1, maxHandleBytes, maxHandleBytes + 1} {
		if room < 0 {
			room = int(results[0].Size)
		}
		buffer := make([]uint32, 2+maxHandleBytes/4)
		buffer[0] = uint32(room)
		mount := int32(-1)
		empty := []byte{0}
		_, _, errno := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(dir), uintptr(unsafe.Pointer(&empty[0])),
			uintptr(unsafe.Pointer(&buffer[0])), uintptr(unsafe.Pointer(&mount)), unix.AT_EMPTY_PATH, 0)
		results = append(results, roomResult{errno, buffer[0], mount > 0})
	}
	_ = json.NewEncoder(os.Stdout).Encode(results)
}

// TestHandlesOfManyFiles: more files than a program may hold open.
func TestHandlesOfManyFiles(t *testing.T) {
	const files = 2000
	c := program(t, "handle")
	c.FileHandles, c.Dir = true, t.TempDir()
	if err := os.Chmod(c.Dir, 0o755); err != nil {
		t.Fatal(err)
	}
	want := map[string]handleResult{}
	for i := range files {
		name := fmt.Sprintf("f%d", i)
		makeFile(t, c.Dir, name, testUID, testGID, 0o600)
		c.Args = append(c.Args, name)
		want[name] = handleResult{Text: name}
	}
	forged(t, filepath.Join(c.Dir, "f0"))
	checkHandles(t, runHandles(t, c), want)
}
