// Package profile reads a product line's profile: one YAML document that says
// which identities the line's devices get, how long their chip IDs are and
// which entries their packages hold.
//
// A profile decides what a manifest looks like, so it is read as strictly as
// anything from outside: an unknown key, a key twice or without a value, an
// anchor, a second document, a number in an unusual spelling are refused, each
// with its line. What it asks for is then checked against the formats, by
// encoding a manifest of that shape and adding up what a package would weigh:
// a line that could not ship is found when the SPP starts, not at its first
// device.
//
// Where an entry's value comes from is its source:
//
//	derived  a symmetric key, derived from the master key inside the HSM
//	drawn    random bytes or digits from the HSM, one value for each device
//	file     a licensor's secret, one file for the line or one for each identity
//	value    text that stands in the profile, for clear entries only
//	made     a key, or key pair, that the HSM makes while the device is on the line
//	pool     one that was made in advance: it waits in the identity pool, wrapped
//	imported one that came from outside, wrapped to the HSM, and waits there too
//
// With algorithm none the last two are secrets that are no keys, sealed where a key
// is wrapped: a code drawn in advance, a licensor's secret for each identity.
//
// Who wants to reach a device by its certificate finds it where Publish says.
//
// A profile holds no secret. Secrets of source file stay in their files, mode
// 0400, and are read for one device at a time.
package profile
