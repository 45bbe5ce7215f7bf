package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
)

// fakeImage is the header of an arm64 Image and some text.
func fakeImage(text string) []byte {
	b := make([]byte, endOfImage, endOfImage+len(text))
	copy(b, "MZ")
	binary.LittleEndian.PutUint64(b[offImageSize:], uint64(len(b)+len(text)+4096))
	copy(b[offImageMagic:], "ARM\x64")
	return append(b, text...)
}

// zboot wraps a payload for UEFI to unpack; behind it stands its size, of which
// the header's length knows nothing.
func zboot(method string, payload []byte) []byte {
	const start = 0x1000
	b := make([]byte, start, start+len(payload)+4)
	copy(b, "MZ\x00\x00zimg")
	binary.LittleEndian.PutUint32(b[offZbootPayload:], start)
	binary.LittleEndian.PutUint32(b[offZbootLength:], uint32(len(payload)))
	copy(b[offZbootCompression:], method)
	return append(append(b, payload...), 1, 2, 3, 4)
}

func openZstd22(w io.Writer) (io.WriteCloser, error) {
	return zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBestCompression))
}

func TestExtractImage(t *testing.T) {
	image := fakeImage(strings.Repeat("kernel ", 1<<20))
	for name, vmlinuz := range map[string][]byte{
		"plain": image, "gzip": pack(t, image, openGzip),
		"zboot gzip": zboot("gzip", pack(t, image, openGzip)), "zboot zstd22": zboot("zstd22", pack(t, image, openZstd22)),
		"zboot xzkern": zboot("xzkern", pack(t, image, openXZ)),
	} {
		if got, err := extractKernel(vmlinuz, "arm64"); err != nil || !bytes.Equal(got, image) {
			t.Errorf("%s: %d bytes, %v", name, len(got), err)
		}
	}
}

func TestExtractImageErrors(t *testing.T) {
	image := fakeImage("kernel")
	huge := bytes.Clone(image)
	binary.LittleEndian.PutUint64(huge[offImageSize:], 1<<40)
	outside := zboot("gzip", pack(t, image, openGzip))
	binary.LittleEndian.PutUint32(outside[offZbootPayload:], 1<<32-1)
	x86 := fakeBzImage(4, appendSize(pack(t, fakeELF("kernel"), openZstd), 70))
	for name, tt := range map[string]struct {
		in   []byte
		want string
		not  bool // no wrong kernel but a broken one
	}{
		"empty":            {nil, "neither an Image nor", false},
		"of x86":           {x86, "neither an Image nor", false},
		"huge":             {huge, "neither an Image nor", false},
		"gzip of x86":      {pack(t, x86, openGzip), "no arm64 Image", false},
		"gzip of huge":     {pack(t, huge, openGzip), "takes 1099511627776 bytes", false},
		"cut off":          {pack(t, image, openGzip)[:40], "unpack the kernel", true},
		"outside":          {outside, "outside the file", false},
		"unknown":          {zboot("lzma", image), `unknown compression "lzma"`, false},
		"not what it says": {zboot("gzip", image), "unpack the kernel", true},
		"zboot cut off":    {zboot("gzip", nil)[:endOfZboot-1], "neither an Image nor", false},
	} {
		_, err := extractKernel(tt.in, "arm64")
		if err == nil || !strings.Contains(err.Error(), tt.want) || errors.Is(err, errKernel) == tt.not {
			t.Errorf("%s: error %v, want %q", name, err, tt.want)
		}
	}
	if _, err := extractKernel(image, "riscv64"); !errors.Is(err, ErrUnsupported) {
		t.Errorf("riscv64: %v", err)
	}
}

func FuzzExtractImage(f *testing.F) {
	image := fakeImage("kernel kernel kernel kernel")
	f.Add(image)
	f.Add(pack(f, image, openGzip))
	f.Add(zboot("gzip", pack(f, image, openGzip)))
	f.Add(zboot("zstd22", pack(f, image, openZstd22)))
	f.Add(zboot("xzkern", pack(f, image, openXZ)))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := extractKernel(data, "arm64")
		if err != nil {
			return
		}
		if _, err := checkImage(got); err != nil {
			t.Error("a kernel that is no Image")
		}
	})
}
