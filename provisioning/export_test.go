package provisioning

// Counted tells whether the devices that stations began before the start are
// counted.
func (a *Assembly) Counted() bool {
	a.quotas.mu.Lock()
	defer a.quotas.mu.Unlock()
	return a.quotas.loaded
}
