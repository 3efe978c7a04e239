// Package logfile keeps the log of one box on a disk: append-only segment files in a directory, with one writer.
// The spool of the box and the store of a peer are such logs.
//
// A segment is a file NNN.log, named by the index of its first leaf, of entries
//
//	length of the payload (4 bytes) | type (1) | payload | CRC-32C of all before (4)
//
// with numbers big endian. The first entry is the header of the segment: version, first index, the tree there and the last
// checkpoint before it, so that a segment can be read and proved without the ones before it. The others are leaves, checkpoints
// and marks. A checkpoint signs a size of the log at which it may no longer stand: leaves go on arriving while the chip signs.
//
// A mark begins each batch of entries that was written after a Sync, and holds its own offset. It says: all before me was on the
// disk when I was written. So recovery tells a torn write, which it cuts off, from damage to what was once safe, which it reports.
//
// Durability, call by call, is in durable.go.
package logfile
