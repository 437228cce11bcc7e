package takeover

// Partner is the other agent of the rack on one BMC. It has an account and an anchor
// of its own, so that either can be shut out without the other.
type Partner struct {
	Account string `json:"account"`
	Twin    string `json:"twin"`  // the anchor behind its certificate, PEM
	Print   string `json:"print"` // the fingerprint of Twin
	Made    bool   `json:"made,omitempty"`
	// Shut: it may only read, until it says that it knows who owns the rack.
	Shut bool `json:"shut,omitempty"`
}

// pairDue: the partner is not on the BMC as it shall be.
func pairDue(f Facts, r Record) bool {
	p := r.Partner
	if p == nil {
		return false
	}
	if p.Shut {
		return f.PartnerGood
	}
	return !p.Made || !f.PartnerGood || !f.PartnerRoot && f.Lacks[Anchor] == ""
}

// signedIn reports whether the certificate of the BMC is from an authority of the
// rack: the one with that twin, or the partner's.
func (r Record) signedIn(twin string) bool {
	return r.SignedBy != "" && (r.SignedBy == twin || r.Partner != nil && r.SignedBy == r.Partner.Print)
}

// With is the record with that partner, whose account and anchor replace those of
// one before. The zero Partner is none.
func (r Record) With(p Partner) Record {
	switch old := r.Partner; {
	case p.Account == "":
		r.Partner = nil
	case old == nil || old.Account != p.Account:
		r.Partner = &p
	case old.Print != p.Print:
		next := *old
		next.Twin, next.Print = p.Twin, p.Print
		r.Partner = &next
	}
	return r
}

// ShutOut is the record in which the partner may only read, or may log in as before.
func (r Record) ShutOut(shut bool) Record {
	if r.Partner == nil || r.Partner.Shut == shut {
		return r
	}
	next := *r.Partner
	next.Shut = shut
	r.Partner = &next
	return r
}

// HandTo is the partner's record as it is ours, whose account and fingerprint of the twin are given;
// other is the one who has kept it until now. Our own record stays as it is.
func (r Record) HandTo(account, twin string, other Partner) Record {
	if r.Goal == "" || r.Account == account {
		return r
	}
	before := r
	r.Account, r.AccountProven, r.ProvenBy, r.Doing, r.Last = account, false, "", Nothing, Nothing
	if mine := before.Partner; mine != nil && mine.Account == account {
		r.AccountProven = mine.Made
		if mine.Made && mine.Print == twin && before.ProvenBy != "" {
			r.ProvenBy = twin
		}
	}
	other.Account, other.Made = before.Account, before.AccountProven
	r.Partner = &other
	return r
}
