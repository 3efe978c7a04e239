package dnssd_test

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/vitalgate/vitalgate/provision/dnssd"
)

func aBox() dnssd.Box {
	return dnssd.Box{Name: "VG-78RS-QP7F", Owned: true, Port: 8471, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.10")}}
}

func ask(t testing.TB, h dnsmessage.Header, known []dnsmessage.Resource, all ...dnsmessage.Question) []byte {
	t.Helper()
	m := dnsmessage.Message{Header: h, Questions: all, Answers: known}
	b, err := m.Pack()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func question(name string, kind dnsmessage.Type) dnsmessage.Question {
	return dnsmessage.Question{Name: dnsmessage.MustNewName(name), Type: kind, Class: dnsmessage.ClassINET}
}

func TestWhoAsksFindsTheBox(t *testing.T) {
	q, err := dnssd.Question(4711)
	if err != nil {
		t.Fatal(err)
	}
	for _, owned := range []bool{false, true} {
		b := aBox()
		b.Owned = owned
		a, err := b.Answer(q, true)
		if err != nil || a == nil {
			t.Fatalf("no answer: %v", err)
		}
		if got := dnssd.Boxes(a, 4711); !reflect.DeepEqual(got, []dnssd.Box{b}) {
			t.Errorf("found %+v", got)
		}
		if got := dnssd.Boxes(a, 4712); got != nil {
			t.Errorf("an answer to another question is %+v", got)
		}
	}
}

// A box tells its name, its port, its address, and whether it has an owner, and nothing else of itself.
func TestNothingElseIsTold(t *testing.T) {
	b := aBox()
	a, err := b.Answer(ask(t, dnsmessage.Header{}, nil, question("_vitalgate._tcp.local.", dnsmessage.TypeALL)), false)
	if err != nil {
		t.Fatal(err)
	}
	announced, err := b.Announcement(false)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range [][]byte{a, announced} {
		var m dnsmessage.Message
		if err := m.Unpack(text); err != nil {
			t.Fatal(err)
		}
		if m.ID != 0 || !m.Authoritative || len(m.Questions) != 0 { // RFC 6762 §18.1, §18.4, §6
			t.Errorf("%+v", m.Header)
		}
		told := map[string]int{}
		for _, r := range append(m.Answers, m.Additionals...) {
			switch body := r.Body.(type) {
			case *dnsmessage.PTRResource:
				told["ptr "+r.Header.Name.String()+" "+body.PTR.String()]++
			case *dnsmessage.SRVResource:
				told["srv "+r.Header.Name.String()+" "+body.Target.String()]++
			case *dnsmessage.TXTResource:
				told["txt "+strings.Join(body.TXT, " ")]++
			case *dnsmessage.AResource:
				told["a "+r.Header.Name.String()+" "+netip.AddrFrom4(body.A).String()]++
			default:
				t.Errorf("%T", body)
			}
		}
		want := map[string]int{"ptr _vitalgate._tcp.local. VG-78RS-QP7F._vitalgate._tcp.local.": 1, "srv VG-78RS-QP7F._vitalgate._tcp.local. vg-78rs-qp7f.local.": 1,
			"txt txtvers=1 owned=yes": 1, "a vg-78rs-qp7f.local. 192.0.2.10": 1}
		if !reflect.DeepEqual(told, want) {
			t.Errorf("told: %v", told)
		}
	}
}

func TestWhatIsNotAskedIsNotAnswered(t *testing.T) {
	b := aBox()
	ours := question("_vitalgate._tcp.local.", dnsmessage.TypePTR)
	known := func(ttl uint32) []dnsmessage.Resource {
		return []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: ours.Name, Class: dnsmessage.ClassINET, TTL: ttl},
			Body: &dnsmessage.PTRResource{PTR: dnsmessage.MustNewName("VG-78RS-QP7F._vitalgate._tcp.local.")}}}
	}
	for name, c := range map[string]struct {
		message []byte
		answers bool
	}{
		"boxes":             {ask(t, dnsmessage.Header{}, nil, ours), true},
		"in capitals":       {ask(t, dnsmessage.Header{}, nil, question("_VITALGATE._tcp.LOCAL.", dnsmessage.TypePTR)), true},
		"all services":      {ask(t, dnsmessage.Header{}, nil, question("_services._dns-sd._udp.local.", dnsmessage.TypePTR)), true},
		"its host":          {ask(t, dnsmessage.Header{}, nil, question("vg-78rs-qp7f.local.", dnsmessage.TypeA)), true},
		"its port":          {ask(t, dnsmessage.Header{}, nil, question("VG-78RS-QP7F._vitalgate._tcp.local.", dnsmessage.TypeSRV)), true},
		"one among others":  {ask(t, dnsmessage.Header{}, nil, question("_ipp._tcp.local.", dnsmessage.TypePTR), ours), true},
		"known for long":    {ask(t, dnsmessage.Header{}, known(4500), ours), false},
		"known for a while": {ask(t, dnsmessage.Header{}, known(100), ours), true},
		"printers":          {ask(t, dnsmessage.Header{}, nil, question("_ipp._tcp.local.", dnsmessage.TypePTR)), false},
		"another box":       {ask(t, dnsmessage.Header{}, nil, question("vg-0000-0000.local.", dnsmessage.TypeA)), false},
		"an answer":         {ask(t, dnsmessage.Header{Response: true}, nil, ours), false},
		"an update":         {ask(t, dnsmessage.Header{OpCode: 5}, nil, ours), false},
		"noise":             {[]byte("GET / HTTP/1.1\r\n\r\n"), false},
		"nothing":           {nil, false},
	} {
		if a, err := b.Answer(c.message, false); err != nil || (a != nil) != c.answers {
			t.Errorf("%s: %x %v", name, a, err)
		}
	}
}

// Whatever comes: it is answered well or not at all, and no answer is many times the question.
func FuzzAnswer(f *testing.F) {
	q, err := dnssd.Question(1)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(q, true)
	f.Add(q, false)
	f.Fuzz(func(t *testing.T, message []byte, oneShot bool) {
		a, err := aBox().Answer(message, oneShot)
		if err != nil {
			t.Fatal(err)
		}
		var m dnsmessage.Message
		if a == nil {
			return
		}
		if err := m.Unpack(a); err != nil || !m.Response || len(a) > 512+len(message) {
			t.Fatalf("%d bytes answer %d: %v", len(a), len(message), err)
		}
	})
}

// Whoever answers: what is taken for a box has the name of one, and a port.
func FuzzBoxes(f *testing.F) {
	q, err := dnssd.Question(1)
	if err != nil {
		f.Fatal(err)
	}
	a, err := aBox().Answer(q, true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(a)
	f.Fuzz(func(t *testing.T, answer []byte) {
		for _, b := range dnssd.Boxes(answer, 1) {
			if len(b.Name) != 12 || !strings.HasPrefix(b.Name, "VG-") || strings.ContainsAny(b.Name, " \n\x1b") || b.Port == 0 || len(b.Addresses) > 1 {
				t.Fatalf("%+v", b)
			}
		}
	})
}
