package client

import "time"

// Ping asks for a sign of life after that much silence, and waits that long for it.
// It must come before the first call.
func (c *Client) Ping(after, timeout time.Duration) {
	c.transport.HTTP2.SendPingTimeout, c.transport.HTTP2.PingTimeout = after, timeout
}
