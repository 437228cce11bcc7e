package fleet

// AdmissionState says whether a BMC that was found is one of the fleet.
type AdmissionState string

// The states of an admission.
const (
	Listed   AdmissionState = ""         // it stands in the catalogue of its agent
	Waiting  AdmissionState = "waiting"  // nobody has let it in: nothing secret is sent to it
	Barring  AdmissionState = "refused"  // a person or a policy keeps it out
	Admitted AdmissionState = "admitted" // a person or a policy has let it in
)

// Admission is how a BMC came to be one of the fleet, or why it is none.
type Admission struct {
	State AdmissionState
	Why   string   // what it waits for, or why it was let in or kept out
	By    []string // who has decided so: people by the names of their keys, or "trust-policy"
	Make  string   // as far as it tells anybody: "OpenBMC"; "" if it does not
	UUID  string   // of its service root, which anybody may claim
	// Evidence is what was seen of it from outside, each with who saw it.
	Evidence []Evidence
}

// Told is the first evidence of a kind, "" if there is none.
func (a Admission) Told(what string) string {
	for _, e := range a.Evidence {
		if e.What == what {
			return e.Is
		}
	}
	return ""
}

// Evidence is one thing that was seen of a BMC from outside.
type Evidence struct {
	What string `json:"what"` // "link", "address", "announces", …
	Is   string `json:"is"`
	From string `json:"from"` // who observed it: "mdns", "TLS handshake", "its own word"
}

// Outside reports whether the node is none of the fleet: a BMC that was found and
// that nobody has let in. No target but its own name selects it.
func (n Node) Outside() bool { return n.Admission.State == Waiting || n.Admission.State == Barring }
