package depot

// Jobs is how many artifacts are remembered.
func (d *Depot) Jobs() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.jobs)
}
