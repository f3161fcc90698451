package fault

import (
	"math/rand/v2"
	"slices"
)

// bag gives its contents in a random order, all of them before any comes again.
type bag[T any] struct {
	draw *rand.Rand
	all  []T
	left []T
}

// take gives the first of what is left that is wanted. Where none is, the bag is filled
// again first, on top of what is left, which so has its turn before.
func (b *bag[T]) take(wanted func(T) bool) (T, bool) {
	for range 2 {
		if i := slices.IndexFunc(b.left, wanted); i >= 0 {
			t := b.left[i]
			b.left = slices.Delete(b.left, i, i+1)
			return t, true
		}
		if len(b.left) > len(b.all) {
			break // what is left was never wanted for so long that nothing of it is
		}
		b.left = append(b.left, b.all...)
		added := b.left[len(b.left)-len(b.all):]
		b.draw.Shuffle(len(added), func(i, j int) { added[i], added[j] = added[j], added[i] })
	}
	var none T
	return none, false
}

// pair is a kind of fault and one target of it.
type pair struct {
	target string
	act    Act
}

// bags is a bag of kinds, and for each a bag of its targets.
type bags struct {
	kinds   bag[Kind]
	targets map[Kind]*bag[pair]
}

func newBags(draw *rand.Rand, targets []Target) *bags {
	b := &bags{kinds: bag[Kind]{draw: draw}, targets: map[Kind]*bag[pair]{}}
	for _, t := range targets {
		for _, a := range t.Acts {
			if b.targets[a.Kind] == nil {
				b.targets[a.Kind] = &bag[pair]{draw: draw}
				b.kinds.all = append(b.kinds.all, a.Kind)
			}
			b.targets[a.Kind].all = append(b.targets[a.Kind].all, pair{t.Name, a})
		}
	}
	return b
}

// take draws a kind, and a target of it that has rest.
func (b *bags) take(rested func(target string) bool) (c pair, ok bool) {
	has := func(k Kind) bool {
		return slices.ContainsFunc(b.targets[k].all, func(c pair) bool { return rested(c.target) })
	}
	k, ok := b.kinds.take(has)
	if !ok {
		return pair{}, false
	}
	return b.targets[k].take(func(c pair) bool { return rested(c.target) })
}
