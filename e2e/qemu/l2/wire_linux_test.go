package l2

import (
	"net"
	"os"
	"path/filepath"
	"testing"
)

// The card of a guest is a datagram socket that may come later than the switch's.
func TestSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "l2") //nolint:usetesting // t.TempDir's paths are too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	ours, theirs := filepath.Join(dir, "sw"), filepath.Join(dir, "vm")
	w, err := Socket(ours, theirs)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if _, err = w.Write([]byte("nobody there")); err == nil {
		t.Error("a frame went to nobody")
	}

	card, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: theirs})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = card.Close() }()
	buffer := make([]byte, maxFrame)
	if _, err = w.Write([]byte("to the guest")); err != nil {
		t.Fatal(err)
	}
	if n, readErr := card.Read(buffer); readErr != nil || string(buffer[:n]) != "to the guest" {
		t.Errorf("the card read %q, %v", buffer[:n], readErr)
	}
	if _, err = card.WriteToUnix([]byte("from the guest"), &net.UnixAddr{Net: "unixgram", Name: ours}); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Read(buffer); err != nil || string(buffer[:n]) != "from the guest" {
		t.Errorf("the switch read %q, %v", buffer[:n], err)
	}
	if _, err := Socket(ours, theirs); err == nil {
		t.Error("two ports have one path")
	}
}
