package serial

// Probe opens the port as Run would, closes it again and says what went wrong,
// if anything did. It is for checking a configuration. It takes the line from
// whoever uses it: a port that another process has open is reported as busy to
// an ordinary user, but not to root. Never call it while Run runs.
func (p *Port) Probe() error {
	w, _, err := p.open()
	if err != nil {
		return err
	}
	w.close()
	return nil
}
