package link

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/vitalgate/vitalgate/firmware/spool"
)

// Codes of conditions.
const (
	Offline         = "offline"           // no leaf node can be used; records are kept
	Unauthorised    = "unauthorised"      // a leaf node does not accept the box
	ForeignWriter   = "foreign-writer"    // a leaf node has records in the box's name that the box did not send
	UntrustedLeaf   = "untrusted-leaf"    // what answers at a leaf node's address is not the facility's
	LogRolledBack   = "log-rolled-back"   // the log on the box's disk is older than what was published of it: nothing is published any more
	LogDamaged      = "log-damaged"       // records on the box's disk cannot be read and are left out
	NetworkLostData = "network-lost-data" // a leaf node lost what it had acknowledged and is being given it again
)

// Condition is one thing about the network that a person should know.
type Condition struct {
	Code     string    `json:"code"`
	Leaf     string    `json:"leaf,omitempty"`
	Sentence string    `json:"sentence"`
	Remedy   string    `json:"remedy"`
	Since    time.Time `json:"since"`
}

// Status is the link as it is now. Counters are cumulative since start.
type Status struct {
	Leaf       string      `json:"leaf"`  // in use; "" none
	State      string      `json:"state"` // one sentence, with the remedy if there is something to do
	Acked      uint64      `json:"acked"` // first index that no leaf node has acknowledged
	LastAck    time.Time   `json:"last_ack"`
	Since      time.Time   `json:"since"` // of the connection, or of its loss
	Records    uint64      `json:"records"`
	Batches    uint64      `json:"batches"`
	Connects   uint64      `json:"connects"`
	Refilled   uint64      `json:"refilled"` // records that leaf nodes had lost after acknowledging them
	Conditions []Condition `json:"conditions"`
}

// Status reports how the link is. It does not wait for anything.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	st := l.status
	st.Acked = l.spool.Acked()
	st.Conditions = slices.Clone(l.alarms)
	if st.Leaf != "" {
		behind := uint64(0)
		if signed := l.spool.Signed(); signed > st.Acked {
			behind = signed - st.Acked
		}
		st.State = fmt.Sprintf("Publishing to leaf node %s; %d signed records are waiting.", st.Leaf, behind)
	}
	return st
}

func (l *Link) connected(leaf *leafNode) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Leaf, l.status.Since = leaf.Name, time.Now()
	l.status.Connects++
	l.clear(Offline, "")
	l.clear(Unauthorised, leaf.Name)
	l.clear(UntrustedLeaf, leaf.Name)
	l.log.Info("publishing", "leaf", leaf.Name)
}

func (l *Link) disconnected() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Leaf, l.status.Since = "", time.Now()
	l.status.State = "Changing the leaf node."
}

func (l *Link) acknowledged(leaf *leafNode, n int, cur spool.Cursor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Records += uint64(n)
	l.status.Batches++
	l.status.LastAck = time.Now()
	if cur.Next > l.torn {
		l.clear(LogDamaged, "")
	}
	if cur.Next >= cur.Refill {
		l.clear(NetworkLostData, leaf.Name)
	}
}

// trouble notes that a leaf node cannot be used.
func (l *Link) trouble(leaf *leafNode, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Condition{Code: Offline, Sentence: fmt.Sprintf("Leaf node %s cannot be used: %s.", leaf.Name, sentence(err)),
		Remedy: "Nothing is lost: records are kept on the box and sent when it is back. Check the network cable, the leaf node and its address " + leaf.URL + "."}
	if r, ok := errors.AsType[*refusal](err); ok {
		c.Sentence, c.Remedy = sentence(r)+".", r.remedy
		if r.code == LogRolledBack {
			return // of the box, not of the leaf node
		}
		if r.code == LogDamaged { // of the box too, and no fault of the network
			c.Code = LogDamaged
			l.clear(Offline, "")
			l.set(c)
		} else if r.code != "" {
			l.set(Condition{Code: r.code, Leaf: leaf.Name, Sentence: c.Sentence, Remedy: c.Remedy})
		}
	}
	l.why = c
	l.status.State = c.Sentence + " " + c.Remedy
	l.log.Debug("leaf node cannot be used", "leaf", leaf.Name, "error", err)
}

const (
	rolledBackSentence = "The log on this box's disk is older than what this box has published: "
	rolledBackRemedy   = "The disk was set back to an earlier state, or replaced. New readings are kept on the box, but neither signed nor published: they would contradict what it published before under the same name. Set the data folder aside (its readings can still be opened), revoke the box at the peer, and enrol it anew under a new name with an empty data folder."
)

// rolledBack notes that nothing will be published any more.
func (l *Link) rolledBack(why string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := Condition{Code: LogRolledBack, Sentence: rolledBackSentence + why + ".", Remedy: rolledBackRemedy}
	l.alarms = nil // what else is with the network matters no more
	l.set(c)
	l.status.State = c.Sentence + " " + c.Remedy
	l.log.Error("nothing is published any more: the log was set back", "reason", why)
}

// offline notes that no leaf node at all can be used now.
func (l *Link) offline() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.set(l.why) {
		l.log.Warn("nothing can be published; records are kept", "reason", l.why.Sentence)
	}
}

// lost notes that a leaf node lost records that it had acknowledged.
func (l *Link) lost(leaf *leafNode, n uint64, cur spool.Cursor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.status.Refilled += n
	l.log.Error("a leaf node lost acknowledged records and gets them again", "leaf", leaf.Name, "records", n, "from", cur.Next)
	l.set(Condition{Code: NetworkLostData, Leaf: leaf.Name,
		Sentence: fmt.Sprintf("Leaf node %s lost %d records that it had acknowledged; it is given again what this box still has, from index %d.", leaf.Name, n, cur.Next),
		Remedy:   "Find out why: was its disk changed or restored from a backup, or is JetStream there not set to sync_interval always?"})
}

// set and clear keep the list of conditions; l.mu is held.
func (l *Link) set(c Condition) (isNew bool) {
	for i := range l.alarms {
		if a := &l.alarms[i]; a.Code == c.Code && a.Leaf == c.Leaf {
			c.Since = a.Since
			*a = c
			return false
		}
	}
	c.Since = time.Now()
	l.alarms = append(l.alarms, c)
	return true
}

func (l *Link) clear(code, leaf string) {
	l.alarms = slices.DeleteFunc(l.alarms, func(c Condition) bool { return c.Code == code && c.Leaf == leaf })
}
