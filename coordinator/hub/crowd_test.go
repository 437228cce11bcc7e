package hub_test

import "testing"

// One agent that connects again and again takes its own places and nobody else's.
func TestOneAgentManySessions(t *testing.T) {
	w := newWorld(t, 0)
	good := w.join("r1")
	var crowd []*agent
	for range 4 {
		crowd = append(crowd, w.dial("a-r2"))
	}
	for _, a := range crowd { // all are served: none has said hello, and none is refused
		if err := a.conn.Err(); err != nil {
			t.Fatal(err)
		}
	}
	more := w.dial("a-r2")
	<-more.conn.Done()
	good.fine()
	for _, a := range crowd {
		a.conn.Close("gone")
	}
	for { // as soon as their end is noticed
		back := w.dial("a-r2")
		back.greet(hello("a-r2", "r2"))
		if m, err := back.hear(); err == nil && m.GetWelcome() != nil {
			return
		}
	}
}
