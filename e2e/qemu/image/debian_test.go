package image

import (
	"testing"

	"github.com/chiba-mesh/chiba/pkg/fault"
)

func TestMirrorIn(t *testing.T) {
	const targets = "http://mirror.example/security/ bookworm-security main\nhttp://mirror.example/debian/ bookworm contrib\nhttp://mirror.example/debian/ bookworm main\nhttp://other.example/debian/ bookworm main\n"
	if got, err := mirrorIn(targets); got != "http://mirror.example/debian/" || err != nil {
		t.Errorf("it is %q, %v", got, err)
	}
	for _, none := range []string{"", "\n", "http://mirror.example/debian/ trixie main\n"} {
		if got, err := mirrorIn(none); got != "" || !fault.Is(err, fault.NotFound) || fault.HintOf(err) == "" {
			t.Errorf("%q: %q, %v", none, got, err)
		}
	}
}

func TestKernelPackage(t *testing.T) {
	const about = "linux-image-armmp\n  Depends: linux-image-6.1.0-50-armmp\n  Suggests: firmware-linux\n"
	if got, err := kernelPackage(about); got != "linux-image-6.1.0-50-armmp" || err != nil {
		t.Errorf("it is %q, %v", got, err)
	}
	if _, err := kernelPackage("linux-image-armmp\n"); !fault.Is(err, fault.NotFound) {
		t.Errorf("a package without a kernel: %v", err)
	}
}
