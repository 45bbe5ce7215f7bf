package image

import (
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/ulikunitz/xz"
)

// Bounds of a kernel: Debian's are near 10 MB packed and 60 MB unpacked,
// 30 MB on arm64, where they are not packed.
const (
	maxPacked = 128 << 20
	maxKernel = 512 << 20
	maxWindow = 128 << 20 // of `zstd --ultra -22`, as the kernel's build calls it
)

// errKernel is wrapped by every complaint about a kernel file.
var errKernel = errors.New("not a kernel image for this architecture")

// extractKernel takes what a VMM starts out of a distribution's vmlinuz: an ELF
// file on amd64, an Image on arm64. arch is Debian's name.
func extractKernel(vmlinuz []byte, arch string) ([]byte, error) {
	switch arch {
	case "amd64":
		return extractELF(vmlinuz)
	case "arm64":
		return extractImage(vmlinuz)
	}
	return nil, fmt.Errorf("kernel for %s: %w", arch, ErrUnsupported)
}

// Places in a bzImage, from the kernel's Documentation/arch/x86/boot.rst.
const (
	offSetupSects    = 0x1f1 // u8: sectors of real-mode code, 0 means 4
	offMagic         = 0x202 // "HdrS"
	offVersion       = 0x206 // u16: 0x0208 brought the payload fields
	offPayloadOffset = 0x248 // u32, from the end of the real-mode code
	offPayloadLength = 0x24c // u32
	endOfHeader      = 0x250
)

// extractELF takes the ELF file out of a bzImage. The payload's last four
// bytes are its unpacked size (scripts/Makefile.lib: size_append).
func extractELF(bzImage []byte) ([]byte, error) {
	payload, err := kernelPayload(bzImage)
	if err != nil {
		return nil, err
	}
	size := binary.LittleEndian.Uint32(payload[len(payload)-4:])
	if size < 64 || size > maxKernel {
		return nil, fmt.Errorf("%w: its unpacked size would be %d bytes", errKernel, size)
	}
	reader, err := unpack(payload)
	if err != nil {
		return nil, err
	}
	var kernel bytes.Buffer
	n, err := io.Copy(&kernel, io.LimitReader(reader, int64(size)))
	if err != nil {
		return nil, fmt.Errorf("unpack the kernel: %w", err)
	}
	if n != int64(size) {
		return nil, fmt.Errorf("unpack the kernel: %d of %d bytes: %w", n, size, io.ErrUnexpectedEOF)
	}
	return kernel.Bytes(), checkELF(kernel.Bytes(), "amd64")
}

func kernelPayload(b []byte) ([]byte, error) {
	if len(b) < endOfHeader || string(b[offMagic:offMagic+4]) != "HdrS" {
		return nil, fmt.Errorf("%w: no boot header", errKernel)
	}
	if v := binary.LittleEndian.Uint16(b[offVersion:]); v < 0x0208 {
		return nil, fmt.Errorf("%w: boot protocol %#x is too old", errKernel, v)
	}
	sects := int64(b[offSetupSects])
	if sects == 0 {
		sects = 4
	}
	start := (sects+1)*512 + int64(binary.LittleEndian.Uint32(b[offPayloadOffset:]))
	end := start + int64(binary.LittleEndian.Uint32(b[offPayloadLength:]))
	if end > int64(len(b)) || end-start < 8 {
		return nil, fmt.Errorf("%w: its payload of bytes %d to %d lies outside the file", errKernel, start, end)
	}
	return b[start:end], nil
}

// unpack chooses the decompressor by the payload's magic number.
func unpack(payload []byte) (io.Reader, error) {
	body := bytes.NewReader(payload[:len(payload)-4])
	switch {
	case bytes.HasPrefix(payload, []byte{0x02, 0x21, 0x4c, 0x18}): // LZ4, legacy frame
		return lz4.NewReader(body), nil
	case bytes.HasPrefix(payload, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	case bytes.HasPrefix(payload, []byte{0x1f, 0x8b}):
		// gzip's own trailer is the size, so it belongs to the stream.
		r, err := gzip.NewReader(bytes.NewReader(payload))
		if err != nil {
			return nil, fmt.Errorf("unpack the kernel: %w", err)
		}
		return r, nil
	case bytes.HasPrefix(payload, []byte("\xfd7zXZ\x00")):
		r, err := xz.NewReader(body)
		if err != nil {
			return nil, fmt.Errorf("unpack the kernel: %w", err)
		}
		return r, nil
	case bytes.HasPrefix(payload, []byte("\x7fELF")):
		return body, nil
	default:
		return nil, fmt.Errorf("%w: unknown compression %x", errKernel, payload[:4])
	}
}

// checkELF wants a 64-bit little-endian ELF file for the architecture.
func checkELF(b []byte, arch string) error {
	machine := map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}[arch]
	if len(b) < 64 || !bytes.HasPrefix(b, []byte("\x7fELF\x02\x01")) || elf.Machine(binary.LittleEndian.Uint16(b[18:])) != machine {
		return fmt.Errorf("%w: it holds no ELF file for %s", errKernel, arch)
	}
	return nil
}
