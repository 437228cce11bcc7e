// Package join holds the tests in which machines become agents: both ends of
// chiba-enroll/1 in one process, over real QUIC, before one log or a real group.
package join
