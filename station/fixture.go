package station

import (
	"context"
	"fmt"
	"regexp"
)

// Fixture is one device as the line finds it.
type Fixture struct {
	// Name is the fixture's for people: it stands in tables and logs. 1 to 64
	// letters, digits, '.', '_' and '-', the first a letter or digit.
	Name string
	// Open powers the device up; the line closes it before it calls Open again:
	// after the device's power was cut, and when a parked device is taken up, by
	// any hand, possibly much later. The device stays in its fixture meanwhile.
	Open func(context.Context) (Device, error)
}

var fixtureName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)

// check refuses names that are none and names that are taken.
func (f Fixture) check(taken map[string]bool) error {
	switch {
	case !fixtureName.MatchString(f.Name):
		return fmt.Errorf("fixture name %q: use up to 64 letters, digits, '.', '_' and '-', beginning with a letter or digit", f.Name)
	case taken[f.Name]:
		return fmt.Errorf("fixture %q is named twice: name each device once", f.Name)
	}
	taken[f.Name] = true
	return nil
}
