package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"os/exec"
	"strings"
	"testing"
)

// stream is what the fake decompressor accepts: the magic, "good", the content.
func stream(content string) string { return string(xzMagic) + "good" + content }

func decompress(data []byte) ([]byte, error) {
	content, good := bytes.CutPrefix(data, []byte(stream("")))
	if !good {
		return nil, errors.New("corrupt")
	}
	return content, nil
}

func TestUnpack(t *testing.T) {
	decoy := string(xzMagic) + "code"
	for _, c := range []struct{ name, vmlinuz, want, err string }{
		{"at once", stream("kernel"), "kernel", ""},
		{"after code", "code" + stream("kernel"), "kernel", ""},
		{"after a decoy", decoy + stream("kernel"), "kernel", ""},
		{"after decoys", decoy + decoy + "more" + stream("kernel"), "kernel", ""},
		{"decoys alone", decoy + decoy, "", "unpack the kernel: corrupt"},
		{"another compression", "\x1f\x8bgzip", "", "unpack the kernel: it holds no xz stream"},
		{"nothing", "", "", "unpack the kernel: it holds no xz stream"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Unpack([]byte(c.vmlinuz), decompress)
			if text(err) != c.err || string(got) != c.want {
				t.Errorf("%q, %v; want %q, %q", got, err, c.want, c.err)
			}
		})
	}
}

// With the tool itself: a decoy before, and something behind the stream, as the
// kernel's length behind its content.
func TestXZ(t *testing.T) {
	if _, err := exec.LookPath("xz"); err != nil {
		t.Skip("xz is not installed; make e2e-qemu installs it")
	}
	cmd := exec.CommandContext(t.Context(), "xz", "--stdout")
	cmd.Stdin = strings.NewReader("the kernel")
	packed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	vmlinuz := append(append(append([]byte("code"), xzMagic...), "a decoy"...), packed...)
	got, err := Unpack(append(vmlinuz, 1, 2, 3, 4), XZ(t.Context()))
	if err != nil || string(got) != "the kernel" {
		t.Errorf("%q, %v", got, err)
	}
}

func TestUImage(t *testing.T) {
	kernel := []byte("a raw kernel")
	image := UImage(kernel)
	h, be := image[:64], binary.BigEndian
	for _, c := range []struct {
		field string
		got   uint32
		want  uint32
	}{
		{"magic", be.Uint32(h[0:]), 0x27051956},
		{"size", be.Uint32(h[12:]), uint32(len(kernel))},
		{"load", be.Uint32(h[16:]), 0x80208000},
		{"entry", be.Uint32(h[20:]), 0x80208000},
		{"checksum", be.Uint32(h[24:]), crc32.ChecksumIEEE(kernel)},
		{"Linux on ARM, a kernel, not packed", be.Uint32(h[28:]), 0x05020200},
	} {
		if c.got != c.want {
			t.Errorf("%s is %#x, want %#x", c.field, c.got, c.want)
		}
	}
	sum := be.Uint32(h[4:])
	clear(h[4:8])
	if want := crc32.ChecksumIEEE(h); sum != want {
		t.Errorf("the header's checksum is %#x, want %#x", sum, want)
	}
	if !bytes.Equal(image[64:], kernel) {
		t.Errorf("behind the header is %q", image[64:])
	}
}

func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
