package main

import "strings"

type pair struct{ theirs, ours string }

// cookies pairs the recorded XSRF token with ours, which the BMC shows only to
// browsers: by the cookie that came with the login.
func (r *replayer) cookies(session string) []pair {
	xsrf := r.bmc.XSRF(session)
	for _, rec := range r.recordings {
		if theirs := rec.Request.Headers["X-XSRF-TOKEN"]; theirs != "" && xsrf != "" {
			return []pair{{strings.TrimSpace(theirs), xsrf}}
		}
	}
	return nil
}
