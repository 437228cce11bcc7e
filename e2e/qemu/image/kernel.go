package image

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os/exec"
	"strings"
)

// xzMagic begins a stream of xz, and stands in kernels in other places too.
var xzMagic = []byte{0xFD, '7', 'z', 'X', 'Z', 0}

// Unpack is the kernel inside a self-extracting vmlinuz: decompressing it here
// takes a second, in an emulated guest five, at each boot. Its first xz magic may
// be a decoy, part of the code that unpacks; so each is tried.
func Unpack(vmlinuz []byte, decompress func([]byte) ([]byte, error)) ([]byte, error) {
	last := errors.New("it holds no xz stream")
	for rest := vmlinuz; ; rest = rest[len(xzMagic):] {
		at := bytes.Index(rest, xzMagic)
		if at < 0 {
			return nil, fmt.Errorf("unpack the kernel: %w", last)
		}
		rest = rest[at:]
		kernel, err := decompress(rest)
		if err == nil {
			return kernel, nil
		}
		last = err
	}
}

// XZ decompresses the one stream that data begins with, with the tool xz.
func XZ(ctx context.Context) func(data []byte) ([]byte, error) {
	return func(data []byte) ([]byte, error) {
		var out, why bytes.Buffer
		cmd := exec.CommandContext(ctx, "xz", "--decompress", "--stdout", "--single-stream")
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(data), &out, &why
		if err := cmd.Run(); err != nil {
			return nil, fmt.Errorf("xz: %w: %s", err, strings.TrimSpace(why.String()))
		}
		return out.Bytes(), nil
	}
}

// loadAST2600 is where the RAM of an AST2600 takes a kernel.
const loadAST2600 = 0x80208000

// UImage wraps a raw ARM kernel in the header of U-Boot, which tells QEMU where
// to load it and where to start: without it QEMU takes the kernel for one that
// unpacks itself.
func UImage(kernel []byte) []byte {
	const (
		size                             = 64
		magic                            = 0x27051956
		linux, arm, kernelType, unpacked = 5, 2, 2, 0
	)
	h := make([]byte, size, size+len(kernel))
	be := binary.BigEndian
	be.PutUint32(h[0:], magic)
	be.PutUint32(h[12:], uint32(len(kernel)))
	be.PutUint32(h[16:], loadAST2600)
	be.PutUint32(h[20:], loadAST2600) // entry
	be.PutUint32(h[24:], crc32.ChecksumIEEE(kernel))
	h[28], h[29], h[30], h[31] = linux, arm, kernelType, unpacked
	copy(h[32:], "Linux armmp")
	be.PutUint32(h[4:], crc32.ChecksumIEEE(h)) // over a header with this field zero
	return append(h, kernel...)
}
