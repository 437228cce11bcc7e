//go:build !linux

package neighbour

import "errors"

func neighbours() ([]entry, error) {
	return nil, errors.New("that is done on Linux only")
}
