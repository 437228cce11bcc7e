// Package wan drives a fleet of real processes, each in a network namespace of its
// own, over a link that a program holds: slow, lossy, and cut and healed by a call.
// All of it is in the tests; DESIGN.md says how they are built. `make chaos` runs
// the long drills.
package wan
