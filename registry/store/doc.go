// Package store keeps the registry in Postgres. It alone knows the registry's SQL.
//
// Two tables: entry, a row for each entry, numbered from 0 without gaps; and
// head, one row with their number. A Writer, of which the sequencer has the
// only one, appends in transactions that lock the head, look at what stands,
// insert, and move the head from the value the writer knows. So the numbers are
// dense, two writers can't both go on, and a commit whose outcome got lost can
// be found out by reading (Writer.Settle). A Reader serves lookups; it may
// connect to a replica, since an entry never changes.
//
// Nothing that stands is ever changed. Roles have the least rights that do
// (Grant): the sequencer may insert entries and move the head, readers and
// auditors may select; triggers refuse changes even to the owner.
//
// Lookups go past database/sql's rows (database.Lookup), which take a fifth more of the
// client's CPU.
//
// A row has its leaf's hash and the hash of its sealed record. A Reader makes
// the leaf anew for every row it reads and compares: a row that was damaged, or
// changed by someone past the triggers, is an error and not an answer.
//
// Bytes go to Postgres in one binary parameter per statement, which the
// statement cuts: with lib/pq a batch costs a third of what arrays of bytea or
// COPY cost.
package store
