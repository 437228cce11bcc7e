// Package agent is the process of a rack. It finds the rack's BMCs, keeps one
// lane to each, watches the standing rules, does its part of every run, answers
// what the coordinators ask, and goes on with all of it while it reaches none.
//
// This package composes; its children do the parts and import neither it nor, with
// the exception of the spool's cursor, each other: core decides which sensors are
// read and which rules fire, spool is the memory on disk, link the connection to
// the coordinators, bmc the way to one BMC.
//
// # What survives a crash
//
// A run is accepted on disk before anything of it is done. An action that must
// not be done twice is noted as an intent, durably, before it is begun; its
// outcome, the note that it is done and the record for the coordinators replace
// the intent in one transaction. An intent that is found at a start therefore was
// begun and nobody can tell how it ended: it is recorded as unknown and never
// repeated. What is convergent (config) and has no result is done again.
package agent
