package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
)

// arguments are what this BMC was told.
type arguments struct {
	name string
	ip   *net.IPNet
	seed []byte
}

func readArguments() (arguments, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return arguments{}, err
	}
	return parse(string(line))
}

// parse reads the kernel's command line; what is not ours is the kernel's.
func parse(line string) (arguments, error) {
	var a arguments
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		var err error
		switch key {
		case "bmc.name":
			a.name = value
		case "bmc.ip":
			var ip net.IP
			if ip, a.ip, err = net.ParseCIDR(value); err == nil {
				a.ip.IP = ip
			}
		case "bmc.seed":
			a.seed, err = hex.DecodeString(value)
		}
		if err != nil {
			return arguments{}, fmt.Errorf("%s: %w", key, err)
		}
	}
	if a.name == "" || a.ip == nil || len(a.seed) == 0 {
		return arguments{}, errors.New("bmc.name, bmc.ip and bmc.seed are needed on the kernel's command line")
	}
	return a, nil
}
