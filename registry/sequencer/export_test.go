package sequencer

// Inspect reads one entry as a submission's and gives why it is refused.
func Inspect(raw []byte, o Options) string { return inspect(raw, o.Realm, o.IdentityKeys).refused }

// ReadAck reads one acknowledgement of a submission's entry.
var ReadAck = readAck
