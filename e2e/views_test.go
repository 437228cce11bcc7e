package e2e_test

// What `-o json` prints, as far as these tests read it.

type node struct {
	Name, Rack, State, Reason, Power, Found string
}

type reading struct {
	Node, Ref, Unit, Reason string
	Value                   any
}

type result struct {
	Node, Step, Path, Before, After, Status, Kind, Error string
	TookMS                                               int64 `json:"took_ms"`
	Readings                                             []reading
}

type run struct {
	ID, Script, State string
	Results           []result
}

type firing struct {
	Script, Rule, Node, Held string
	CutOff                   bool `json:"cut_off"`
	Results                  []result
}

type plan struct {
	Nodes   int
	Changes []struct{ Node, Path, Before, After, Verdict, Note string }
}

type stats struct {
	Node                     string `json:"name"`
	Writes, Sessions, Logins int
}

type agent struct {
	Name      string
	Connected bool
}
