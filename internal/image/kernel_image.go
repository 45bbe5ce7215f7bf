package image

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Places in an arm64 Image, from the kernel's Documentation/arch/arm64/booting.rst.
const (
	offImageSize  = 0x10 // u64: with the memory that it clears for itself
	offImageMagic = 0x38 // "ARM\x64"
	endOfImage    = 0x40
)

// Places in a kernel that unpacks itself under UEFI, from the kernel's
// drivers/firmware/efi/libstub/zboot-header.S.
const (
	offZbootMagic       = 0x04 // "zimg", behind the "MZ" of a PE file
	offZbootPayload     = 0x08 // u32, from the start of the file
	offZbootLength      = 0x0c // u32
	offZbootCompression = 0x18 // its name, with a zero behind it
	endOfZboot          = 0x38
)

// extractImage returns the Image that VMMs start, which a vmlinuz is itself
// (Debian), or gzip of (Ubuntu), or has for UEFI to unpack (Fedora).
func extractImage(vmlinuz []byte) ([]byte, error) {
	if image, err := checkImage(vmlinuz); err == nil {
		return image, nil
	}
	packed, method := vmlinuz, "gzip"
	if len(vmlinuz) >= endOfZboot && string(vmlinuz[offZbootMagic:offZbootMagic+4]) == "zimg" {
		start := int64(binary.LittleEndian.Uint32(vmlinuz[offZbootPayload:]))
		end := start + int64(binary.LittleEndian.Uint32(vmlinuz[offZbootLength:]))
		if end > int64(len(vmlinuz)) {
			return nil, fmt.Errorf("%w: its payload of bytes %d to %d lies outside the file", errKernel, start, end)
		}
		name, _, _ := bytes.Cut(vmlinuz[offZbootCompression:endOfZboot], []byte{0})
		packed, method = vmlinuz[start:end], string(name)
	} else if !bytes.HasPrefix(vmlinuz, []byte{0x1f, 0x8b}) {
		return nil, fmt.Errorf("%w: neither an Image nor a packed one", errKernel)
	}
	image, err := unpackImage(packed, method)
	if err != nil {
		return nil, fmt.Errorf("unpack the kernel: %w", err)
	}
	return checkImage(image)
}

func unpackImage(packed []byte, method string) ([]byte, error) {
	var reader io.Reader
	var err error
	switch {
	case method == "gzip":
		reader, err = gzip.NewReader(bytes.NewReader(packed))
	case strings.HasPrefix(method, "zstd"): // "zstd22" by its level
		reader, err = zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
	case strings.HasPrefix(method, "xz"):
		reader, err = xz.NewReader(bytes.NewReader(packed))
	default:
		err = fmt.Errorf("%w: unknown compression %q", errKernel, method)
	}
	if err != nil {
		return nil, err
	}
	image, err := io.ReadAll(io.LimitReader(reader, maxKernel+1))
	if err == nil && len(image) > maxKernel {
		err = errors.New("it is larger than 512 MiB")
	}
	return image, err
}

// checkImage returns b if it is an Image.
func checkImage(b []byte) ([]byte, error) {
	if len(b) < endOfImage || string(b[offImageMagic:endOfImage-4]) != "ARM\x64" {
		return nil, fmt.Errorf("%w: no arm64 Image", errKernel)
	}
	if size := binary.LittleEndian.Uint64(b[offImageSize:]); size < endOfImage || size > maxKernel {
		return nil, fmt.Errorf("%w: an Image that takes %d bytes", errKernel, size)
	}
	return b, nil
}
