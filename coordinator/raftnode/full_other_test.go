//go:build !linux

package raftnode_test

func fullDisk(string) {}
