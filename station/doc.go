// Package station is the line's side of assembly: it takes devices out of
// fixtures, several at once, and brings each from bare chip to shipped.
//
//	Line      the fixtures' devices, worked on by a fixed number of hands
//	Client    the SPP, or several on the same databases, with deadlines and repeated calls
//	Journal   what must outlive a station that loses its power
//
// The station holds no key of any device and decides nothing: it carries
// bytes between a device and the SPP, whose calls may all be repeated. It is
// trusted with one thing, physical access. The one fact it must not lose is a
// backup that the SPP accepted and whose flash it is about to erase; that one
// goes into the journal, durably, before the erase.
//
// # What is away
//
// A call is repeated while the SPP, its HSM or its databases are away, at the
// next SPP where there is one, for callPatience. Nobody waits for the registry
// in a call: the SPP keeps the entry, the device is parked, switched off, and
// its hand takes the next one. See [Line.Run].
//
// # What is lost
//
// A station may be killed anywhere. Run again it asks the SPP how far each
// device is, and goes on from the journal's page, else from the device's
// flash, else from the SPP's copy of certificate and backup, which makes a
// journal that was lost, or lies at another station, no loss. A page that does
// not read is moved aside and never deleted.
//
// # What is refused
//
// A refusal of one device's stops that device. A refusal of the station's own,
// such as a revoked certificate or a used-up quota, stops the line at once
// ([StopsLine]): the same answer is not asked for fixture by fixture.
package station
