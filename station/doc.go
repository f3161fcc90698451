// Package station is the line's side of assembly: it takes devices out of
// fixtures, several at once, and brings each from bare chip to shipped.
//
//	Line      the fixtures' devices, worked on by a fixed number of hands
//	Client    the SPP, with deadlines and repeated calls
//	Journal   what must outlive a station that loses its power
//
// The station holds no key of any device and decides nothing: it carries
// bytes between a device and the SPP, whose calls may all be repeated. It is
// trusted with one thing, physical access. The one fact it must not lose is a
// backup that the SPP accepted and whose flash it is about to erase; that one
// goes into the journal, durably, before the erase.
package station
