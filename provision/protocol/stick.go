package protocol

import "path/filepath"

// Stick is the folder "vitalgate" of a USB stick: the provisioning link on foot, for a box without a network. Who can plug it in
// stands in front of the box, which is what the claim code proves otherwise; so a box that is nobody's writes its label there. An
// owned box takes nothing from a stick but a set of Readers that its facility has signed, and writes on no other stick.
//
// First visit: the box reads Box and writes Label, About and Request. The facility asks Question of its TPM; on the next visit the box
// writes Answer. The facility answers with Grant and Config. Last visit: the box takes them and writes Result. A facility that lets
// the box in on trust leaves question and answer out.
//
// Each step may be done again: a box that was refused something takes what is better on the next visit, and one that was reset in
// between finds that the request is of keys that are gone, and writes a new one in place of all that followed from it.
type Stick string

// StickTaken is how the result begins, after its time, once the box needs the stick no more.
const StickTaken = "the box took its grant and its configuration"

// StickReaders is how the result begins, after its time, of a box that has the readers of the stick.
const StickReaders = "the box seals for the readers of the stick: set"

// StickAt is the stick's folder below the place where the stick is mounted.
func StickAt(mount string) Stick { return Stick(filepath.Join(mount, "vitalgate")) }

// Next names the box that the next one which has no name is to become; the box takes it away with it.
func (s Stick) Next() string { return filepath.Join(string(s), "next.txt") }

// Readers is a set of readers for all boxes of a facility: an owned box takes it and writes Result.
func (s Stick) Readers() string { return filepath.Join(string(s), "readers.json") }

// Of is the folder of the box with the name (Label.Name).
func (s Stick) Of(name string) StickBox { return StickBox(filepath.Join(string(s), name)) }

// StickBox is what a stick has of one box.
type StickBox string

func (b StickBox) Label() string    { return filepath.Join(string(b), "label.txt") }
func (b StickBox) About() string    { return filepath.Join(string(b), "about.json") } // About of the box
func (b StickBox) Box() string      { return filepath.Join(string(b), "box.txt") }    // facility/name
func (b StickBox) Request() string  { return filepath.Join(string(b), "request.json") }
func (b StickBox) Question() string { return filepath.Join(string(b), "question.json") }
func (b StickBox) Answer() string   { return filepath.Join(string(b), "answer.json") }
func (b StickBox) Grant() string    { return filepath.Join(string(b), "grant.json") }
func (b StickBox) Config() string   { return filepath.Join(string(b), "config.toml") }
func (b StickBox) Result() string   { return filepath.Join(string(b), "result.txt") }
