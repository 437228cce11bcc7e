package main

import (
	"context"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"github.com/grandcat/zeroconf"

	"github.com/chiba-mesh/chiba/pkg/redfish/bmcsim"
)

const (
	service = "_obmc_redfish._tcp" // as OpenBMC announces Redfish where it does
	port    = 443
)

// serve answers Redfish and mDNS until somebody asks for a restart.
func serve(ctx context.Context, args arguments) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	restart := make(chan struct{}, 1)
	bmc, err := bmcsim.New(bmcsim.Config{
		Hostname: args.name, Serial: "QEMU-" + args.name, PowerOn: true,
		Epoch: true, StateFile: filepath.Join(flash, "bmc.json"),
		ResetTime: time.Hour, // it is away until the machine is
		OnRestart: func() {
			select {
			case restart <- struct{}{}:
			default: // it is on its way already
			}
		},
	})
	if err != nil {
		return err
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", fmt.Sprintf(":%d", port))
	if err != nil {
		return err
	}
	served := make(chan error, 1)
	go func() { served <- bmc.Serve(ctx, listener) }()
	announced, err := announce(args)
	if err != nil {
		return err
	}
	defer announced.Shutdown()
	say("READY %s, clock %s", args.name, time.Now().UTC().Format(time.DateOnly))

	select {
	case err := <-served:
		return err
	case <-restart:
	}
	<-time.After(leave)
	say("restarting")
	stop()
	return <-served
}

// announce says over mDNS where the BMC is, by both its addresses.
func announce(args arguments) (*zeroconf.Server, error) {
	link, err := net.InterfaceByName(card)
	if err != nil {
		return nil, err
	}
	ips := []string{args.ip.IP.String(), linkLocal().String()}
	return zeroconf.RegisterProxy("redfish on "+args.name, service, "local.", port, args.name, ips, nil, []net.Interface{*link})
}
