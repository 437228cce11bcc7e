package scl

import (
	"fmt"
	"iter"
)

// Secrets are all secret values of the program, literal or sealed.
func (p *Program) Secrets() iter.Seq[Secret] {
	return func(yield func(Secret) bool) {
		p.secrets(func(s *Secret, _ string) bool { return yield(*s) })
	}
}

// Readable reports whether the program still holds a secret that anybody can read.
func (p *Program) Readable() bool {
	for s := range p.Secrets() {
		if !s.Literal.Empty() {
			return true
		}
	}
	return false
}

// Bind says of every secret what it is for: the script of that name, the target and
// the field or the command. What is sealed for one use does not open for another.
// It is called before the program is shared.
func (p *Program) Bind(script string) {
	p.secrets(func(s *Secret, place string) bool {
		s.Use = fmt.Sprintf("script %q %s", script, place)
		return true
	})
}

// secrets visits every secret with its place, until visit returns false.
func (p *Program) secrets(visit func(s *Secret, place string) bool) {
	for _, c := range p.Configs {
		for i := range c.Settings {
			s := &c.Settings[i]
			if !s.Secret.None() && !visit(&s.Secret, fmt.Sprintf("target %q field %q", c.Target.Text, s.Path())) {
				return
			}
		}
	}
	for _, m := range p.Monitors {
		if !eachSecret(m.Target, m.Commands, visit) {
			return
		}
	}
	for _, s := range p.Steps {
		if !eachSecret(s.Target, s.Action, visit) {
			return
		}
	}
}

func eachSecret(target Target, commands []Command, visit func(s *Secret, place string) bool) bool {
	for i := range commands {
		c := &commands[i]
		if !c.Secret.None() && !visit(&c.Secret, fmt.Sprintf("target %q command %q", target.Text, c.Verb)) {
			return false
		}
		if !eachSecret(target, c.Commands, visit) {
			return false
		}
	}
	return true
}
