// Package dnssd is what a box tells whoever looks for boxes on its wire: DNS-Based Service Discovery (RFC 6763) over multicast DNS
// (RFC 6762). Messages only, no sockets: the box's end is package mdns of the firmware, the other is vitalprov find.
//
// A box tells no more than it tells any stranger who asks it (protocol.Box). Nobody is believed for it: a box is known by its label.
package dnssd

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/dns/dnsmessage"
)

// Group is where questions go (RFC 6762 §3). What comes from another port than its own is a one-shot question (§6.7).
var Group = netip.MustParseAddrPort("224.0.0.251:5353")

const (
	service  = "_vitalgate._tcp.local."
	services = "_services._dns-sd._udp.local." // RFC 6763 §9
)

// Most that is read of one message: a question for boxes has one question, an answer five records.
const (
	mostQuestions = 8
	mostRecords   = 64
)

// Times to live (RFC 6762 §10); what answers a one-shot question is not kept for long (§6.7).
const (
	hostTTL  = 2 * time.Minute
	otherTTL = 75 * time.Minute
	shortTTL = 10 * time.Second
)

// flush is the cache-flush bit: this record is the only one of its name and type (RFC 6762 §10.2).
const flush = 1 << 15

// Box is a box that was found, or answers.
type Box struct {
	Name      string // protocol.Label.Name
	Owned     bool
	Port      uint16
	Addresses []netip.Addr // IPv4
}

// Question asks for all boxes.
func Question(id uint16) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{ID: id})
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if err := b.Question(dnsmessage.Question{Name: dnsmessage.MustNewName(service), Type: dnsmessage.TypePTR, Class: dnsmessage.ClassINET}); err != nil {
		return nil, err
	}
	return b.Finish()
}

// record is one that a box has.
type record struct {
	name   string
	unique bool
	ttl    time.Duration
	body   dnsmessage.ResourceBody
}

func (b Box) instance() string { return b.Name + "." + service }
func (b Box) host() string     { return strings.ToLower(b.Name) + ".local." }

// records are all that the box has. An owner is told as yes or no, never by name.
func (b Box) records() ([]record, error) {
	text := []string{"txtvers=1", "owned=no"}
	if b.Owned {
		text[1] = "owned=yes"
	}
	instance, err := dnsmessage.NewName(b.instance())
	if err != nil {
		return nil, err
	}
	host, err := dnsmessage.NewName(b.host())
	if err != nil {
		return nil, err
	}
	all := []record{
		{service, false, otherTTL, &dnsmessage.PTRResource{PTR: instance}},
		{services, false, otherTTL, &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName(service)}},
		{b.instance(), true, hostTTL, &dnsmessage.SRVResource{Port: b.Port, Target: host}},
		{b.instance(), true, otherTTL, &dnsmessage.TXTResource{TXT: text}},
	}
	for _, a := range b.Addresses {
		if a.Is4() {
			all = append(all, record{b.host(), true, hostTTL, &dnsmessage.AResource{A: a.As4()}})
		}
	}
	return all, nil
}

// Answer answers a message, if it asks for what this box has; nil if not. A one-shot question is answered to who asks alone.
func (b Box) Answer(message []byte, oneShot bool) ([]byte, error) {
	var p dnsmessage.Parser
	h, err := p.Start(message)
	if err != nil || h.Response || h.OpCode != 0 || h.RCode != 0 { // RFC 6762 §18.3, §18.11: what is else is not answered
		return nil, nil
	}
	all, err := b.records()
	if err != nil {
		return nil, err
	}
	var asked []dnsmessage.Question
	wanted := map[int]bool{}
	for range mostQuestions {
		q, err := p.Question()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return nil, nil
		}
		mine := false
		for i, r := range all {
			if strings.EqualFold(q.Name.String(), r.name) && (q.Type == r.kind() || q.Type == dnsmessage.TypeALL) && (q.Class&^flush == dnsmessage.ClassINET || q.Class&^flush == dnsmessage.ClassANY) {
				wanted[i], mine = true, true
			}
		}
		if mine {
			q.Class &^= flush // asks for an answer to one alone (§5.4); all may hear it
			asked = append(asked, q)
		}
	}
	if len(wanted) == 0 || !oneShot && b.known(&p, wanted) {
		return nil, nil
	}
	var answers, besides []record
	for i, r := range all {
		switch {
		case wanted[i]:
			answers = append(answers, r)
		case r.name != services: // spares the next questions (RFC 6763 §12)
			besides = append(besides, r)
		}
	}
	header := dnsmessage.Header{Response: true, Authoritative: true}
	if oneShot {
		header.ID = h.ID
	} else {
		asked = nil
	}
	return build(header, asked, answers, besides, oneShot)
}

// known says whether a question to all brings the very answer with it, so that it need not be given (RFC 6762 §7.1).
func (b Box) known(p *dnsmessage.Parser, wanted map[int]bool) bool {
	if len(wanted) != 1 || !wanted[0] || p.SkipAllQuestions() != nil {
		return false
	}
	for range mostRecords {
		r, err := p.Answer()
		if err != nil {
			return false
		}
		if ptr, ok := r.Body.(*dnsmessage.PTRResource); ok && strings.EqualFold(r.Header.Name.String(), service) && strings.EqualFold(ptr.PTR.String(), b.instance()) && time.Duration(r.Header.TTL)*time.Second >= otherTTL/2 {
			return true
		}
	}
	return false
}

// Announcement tells all records unasked, when they are new (RFC 6762 §8.3) or, as a farewell, when they are no more (§10.1). There is
// no probing before: the name is the hash of the box's key, so nobody else has it (§8.1).
func (b Box) Announcement(farewell bool) ([]byte, error) {
	all, err := b.records()
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(r record) bool { return r.name == services })
	if farewell {
		for i := range all {
			all[i].ttl = 0
		}
	}
	return build(dnsmessage.Header{Response: true, Authoritative: true}, nil, all, nil, false)
}

func (r record) kind() dnsmessage.Type {
	switch r.body.(type) {
	case *dnsmessage.PTRResource:
		return dnsmessage.TypePTR
	case *dnsmessage.SRVResource:
		return dnsmessage.TypeSRV
	case *dnsmessage.TXTResource:
		return dnsmessage.TypeTXT
	}
	return dnsmessage.TypeA
}

func build(h dnsmessage.Header, asked []dnsmessage.Question, answers, besides []record, oneShot bool) ([]byte, error) {
	m := dnsmessage.Message{Header: h, Questions: asked}
	for _, list := range []struct {
		from []record
		to   *[]dnsmessage.Resource
	}{{answers, &m.Answers}, {besides, &m.Additionals}} {
		for _, r := range list.from {
			name, err := dnsmessage.NewName(r.name)
			if err != nil {
				return nil, err
			}
			head := dnsmessage.ResourceHeader{Name: name, Class: dnsmessage.ClassINET, TTL: uint32(r.ttl / time.Second)}
			switch {
			case oneShot:
				head.TTL = min(head.TTL, uint32(shortTTL/time.Second))
			case r.unique:
				head.Class |= flush
			}
			*list.to = append(*list.to, dnsmessage.Resource{Header: head, Body: r.body})
		}
	}
	return m.Pack()
}

// Boxes are the boxes of an answer to the question with the id. Whoever may have sent it: what is no box of a plausible form is left out.
func Boxes(answer []byte, id uint16) (all []Box) {
	var p dnsmessage.Parser
	h, err := p.Start(answer)
	if err != nil || !h.Response || h.ID != id || p.SkipAllQuestions() != nil {
		return nil
	}
	found := map[string]*Box{}
	hosts := map[string]netip.Addr{}
	targets := map[string]string{}
	take := func(r dnsmessage.Resource) {
		name := strings.ToLower(r.Header.Name.String())
		b := found[name]
		if label, ok := strings.CutSuffix(name, "."+service); ok && b == nil && named(label) {
			b = &Box{Name: strings.ToUpper(label)}
			found[name] = b
		}
		switch body := r.Body.(type) {
		case *dnsmessage.AResource:
			hosts[name] = netip.AddrFrom4(body.A)
		case *dnsmessage.SRVResource:
			if b != nil {
				b.Port, targets[name] = body.Port, strings.ToLower(body.Target.String())
			}
		case *dnsmessage.TXTResource:
			if b != nil {
				b.Owned = slices.Contains(body.TXT, "owned=yes")
			}
		}
	}
	for range mostRecords {
		r, err := p.Answer()
		if err != nil {
			break
		}
		take(r)
	}
	if p.SkipAllAnswers() == nil && p.SkipAllAuthorities() == nil {
		for range mostRecords {
			r, err := p.Additional()
			if err != nil {
				break
			}
			take(r)
		}
	}
	for name, b := range found {
		if a, ok := hosts[targets[name]]; ok {
			b.Addresses = []netip.Addr{a}
		}
		if b.Port > 0 {
			all = append(all, *b)
		}
	}
	slices.SortFunc(all, func(a, b Box) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// named says whether a label, in small letters, is the name of a box: vg-xxxx-xxxx.
func named(s string) bool {
	if len(s) != 12 || s[:3] != "vg-" || s[7] != '-' {
		return false
	}
	return !strings.ContainsFunc(s[3:7]+s[8:], func(r rune) bool { return !strings.ContainsRune("0123456789abcdefghjkmnpqrstvwxyz", r) })
}
