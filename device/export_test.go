package device

// Next gives the number of reasons with a next step.
func Next() int { return len(next) }
