package scl

import "iter"

// Secrets are all secret values of the program, literal or sealed.
func (p *Program) Secrets() iter.Seq[Secret] {
	return func(yield func(Secret) bool) {
		for _, c := range p.Configs {
			for _, s := range c.Settings {
				if !s.Secret.None() && !yield(s.Secret) {
					return
				}
			}
		}
		for _, m := range p.Monitors {
			if !eachSecret(m.Commands, yield) {
				return
			}
		}
		for _, s := range p.Steps {
			if !eachSecret(s.Action, yield) {
				return
			}
		}
	}
}

func eachSecret(commands []Command, yield func(Secret) bool) bool {
	for _, c := range commands {
		if !c.Secret.None() && !yield(c.Secret) {
			return false
		}
		if !eachSecret(c.Commands, yield) {
			return false
		}
	}
	return true
}
