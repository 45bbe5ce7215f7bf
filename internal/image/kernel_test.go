package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// fakeELF is the header of an x86-64 ELF file and some text.
func fakeELF(text string) []byte { return elfFor(elf.EM_X86_64, text) }

func elfFor(machine elf.Machine, text string) []byte {
	b := make([]byte, 64, 64+len(text))
	copy(b, "\x7fELF\x02\x01\x01")
	binary.LittleEndian.PutUint16(b[16:], 2)
	binary.LittleEndian.PutUint16(b[18:], uint16(machine))
	return append(b, text...)
}

// fakeBzImage wraps a payload as the kernel's build does.
func fakeBzImage(sects byte, payload []byte) []byte {
	const gap = 96 // between the real-mode code and the payload
	setup := (int(sects) + 1) * 512
	if sects == 0 {
		setup = 5 * 512
	}
	b := make([]byte, setup+gap, setup+gap+len(payload)+600)
	b[offSetupSects] = sects
	copy(b[offMagic:], "HdrS")
	binary.LittleEndian.PutUint16(b[offVersion:], 0x020f)
	binary.LittleEndian.PutUint32(b[offPayloadOffset:], gap)
	binary.LittleEndian.PutUint32(b[offPayloadLength:], uint32(len(payload)))
	b = append(b, payload...)
	return append(b, make([]byte, 512)...) // what follows the payload is code
}

// appendSize is the size that the build puts behind every payload but gzip's.
func appendSize(packed []byte, size int) []byte {
	return binary.LittleEndian.AppendUint32(packed, uint32(size))
}

func pack(t testing.TB, data []byte, open func(io.Writer) (io.WriteCloser, error)) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := open(&out)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func openLZ4(w io.Writer) (io.WriteCloser, error) {
	z := lz4.NewWriter(w)
	return z, z.Apply(lz4.LegacyOption(true))
}
func openZstd(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) }
func openXZ(w io.Writer) (io.WriteCloser, error)   { return xz.NewWriter(w) }
func openGzip(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil }

func TestExtractKernel(t *testing.T) {
	// Larger than one 8 MiB block of legacy LZ4.
	kernel := fakeELF(strings.Repeat("kernel ", 9<<20/7))
	payloads := map[string][]byte{
		"lz4":   appendSize(pack(t, kernel, openLZ4), len(kernel)),
		"zstd":  appendSize(pack(t, kernel, openZstd), len(kernel)),
		"xz":    appendSize(pack(t, kernel, openXZ), len(kernel)),
		"gzip":  pack(t, kernel, openGzip),
		"plain": appendSize(bytes.Clone(kernel), len(kernel)),
	}
	for name, payload := range payloads {
		for _, sects := range []byte{0, 27} {
			got, err := extractKernel(fakeBzImage(sects, payload), "amd64")
			if err != nil || !bytes.Equal(got, kernel) {
				t.Errorf("%s, %d sectors: %d bytes, %v", name, sects, len(got), err)
			}
		}
	}
}

func TestExtractKernelErrors(t *testing.T) {
	kernel := fakeELF(strings.Repeat("kernel ", 1000))
	good := fakeBzImage(4, appendSize(pack(t, kernel, openZstd), len(kernel)))
	change := func(f func(b []byte)) []byte {
		b := bytes.Clone(good)
		f(b)
		return b
	}
	other := elfFor(elf.EM_AARCH64, strings.Repeat("kernel ", 1000))
	tests := []struct {
		name string
		in   []byte
		want string
		not  bool // no wrong kernel but a broken one
	}{
		{"empty", nil, "no boot header", false},
		{"no magic", change(func(b []byte) { b[offMagic] = 'X' }), "no boot header", false},
		{"old protocol", change(func(b []byte) { b[offVersion] = 7; b[offVersion+1] = 2 }), "too old", false},
		{"offset outside", change(func(b []byte) { binary.LittleEndian.PutUint32(b[offPayloadOffset:], 1<<32-1) }), "outside the file", false},
		{"length outside", change(func(b []byte) { binary.LittleEndian.PutUint32(b[offPayloadLength:], 1<<32-1) }), "outside the file", false},
		{"length too small", change(func(b []byte) { binary.LittleEndian.PutUint32(b[offPayloadLength:], 7) }), "outside the file", false},
		{"cut off", good[:len(good)-600], "outside the file", false},
		{"huge", fakeBzImage(4, appendSize(pack(t, kernel, openZstd), maxKernel+1)), "unpacked size", false},
		{"larger than it is", fakeBzImage(4, appendSize(pack(t, kernel, openZstd), len(kernel)+1)), "of 7065 bytes", true},
		{"unknown", fakeBzImage(4, appendSize([]byte("????????"), 100)), "unknown compression", false},
		{"no ELF", fakeBzImage(4, appendSize(pack(t, make([]byte, 100), openZstd), 100)), "no ELF file for amd64", false},
		{"other machine", fakeBzImage(4, appendSize(pack(t, other, openZstd), len(other))), "no ELF file for amd64", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := extractKernel(tt.in, "amd64")
			if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, errKernel) == tt.not {
				t.Errorf("error %v, want %q", err, tt.want)
			}
		})
	}
}

func FuzzExtractKernel(f *testing.F) {
	kernel := fakeELF("kernel kernel kernel kernel")
	for _, open := range []func(io.Writer) (io.WriteCloser, error){openLZ4, openZstd, openXZ} {
		f.Add(fakeBzImage(4, appendSize(pack(f, kernel, open), len(kernel))))
	}
	f.Add(fakeBzImage(4, pack(f, kernel, openGzip)))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := extractKernel(data, "amd64")
		if err == nil && checkELF(got, "amd64") != nil {
			t.Error("a kernel that is no ELF")
		}
	})
}
