// Package e2e drives everything together, as a person would: the real binary,
// real processes, real sockets on loopback, a state directory of its own. Its
// tests hold the promises of the README; dev is the world that `chiba dev`
// starts and these tests use.
package e2e
