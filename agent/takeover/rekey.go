package takeover

// A change of the authority's key is one decision about many BMCs. Each of them first
// gets the twin of the next key beside the present one; when all have it the authority
// switches, and what is due for each BMC under another twin follows by itself; when all
// have moved the old key is retired.

// Ready reports whether a BMC does not hold back the switch to the key of the twin
// next: it trusts it, or it is not ours to keep.
func Ready(r Record, next string) bool {
	return r.Goal != Taken || r.Seen.Next == next && (r.Seen.NextAnchored || r.Seen.Lacks[Anchor] != "")
}

// Moved reports whether a BMC does not hold back the end of the key before that of the
// present twin: its certificate and our way in are of the present one, and it trusts no
// other of ours.
func Moved(r Record, twin string) bool {
	if r.Goal != Taken {
		return true
	}
	served := r.SignedBy == twin || r.SignedBy == "" && r.Seen.Lacks[Request] != ""
	wayIn := r.ProvenBy == "" || r.ProvenBy == twin && r.Seen.StaleAnchors == 0
	return r.Seen.Twin == twin && served && wayIn
}
