// Package record is the format that a box and its peers share: what is sealed, hashed, signed, stored and sent.
//
// A box keeps one append-only log. Each entry is a [Leaf]: a clear text header that an auditor can read, a blank line,
// and a body. The leaves form one RFC 9162 Merkle tree ([Tree]); the box signs its root in a [Checkpoint], a C2SP signed
// note. A leaf travels as [Published], with its inclusion proof and the checkpoint, so that anyone who holds the public
// key of the box can [Verify] it alone and offline.
//
// Bodies are sealed ([Sealer]) to the public keys of readers; the box cannot open what it sealed once the epoch is over.
// A reader opens them with an [Opener].
//
// The written format with test vectors is docs/spec/record.md. The package does no input or output and keeps no state on disk;
// package record/logfile does.
package record
