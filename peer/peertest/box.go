// Package peertest is a box as the network sees it: real records, a real log, real credentials, with its keys in memory
// instead of a TPM and a plain publisher instead of the firmware. Tests of the peer use it, honest or otherwise.
package peertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nkeys"
	"github.com/nats-io/nuid"

	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// patience is how long a peer may take on a machine that does much else.
const patience = time.Minute

// Box is a box with its log in memory.
type Box struct {
	ID   record.BoxID
	Data *ecdsa.PrivateKey // signs the checkpoints
	TLS  *ecdsa.PrivateKey
	NKey nkeys.KeyPair

	t      testing.TB
	grant  *enrolment.Grant
	sealer *record.Sealer
	tree   record.Tree
	clock  uint64
	last   record.Checkpoint
	Starts uint64             // as its chip counts them; 0 is taken for 1
	Resets uint32             // of its chip; 0 is taken for 1
	Log    []record.Published // everything that it has signed
}

// NewBox makes a box with fresh keys.
func NewBox(t testing.TB, id string) *Box {
	t.Helper()
	b := &Box{t: t}
	var err error
	if b.ID, err = record.ParseBoxID(id); err != nil {
		t.Fatal(err)
	}
	b.Data, b.TLS = Key(t), Key(t)
	if b.NKey, err = nkeys.CreateUser(); err != nil {
		t.Fatal(err)
	}
	return b
}

// Key is a fresh P-256 key.
func Key(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Request is what the box asks to be enrolled with.
func (b *Box) Request() *enrolment.Request {
	b.t.Helper()
	key, err := enrolment.FormatKey(&b.Data.PublicKey)
	if err != nil {
		b.t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: b.ID.String()}}, b.TLS)
	if err != nil {
		b.t.Fatal(err)
	}
	pub, err := b.NKey.PublicKey()
	if err != nil {
		b.t.Fatal(err)
	}
	return &enrolment.Request{Version: enrolment.Version, Box: b.ID.String(), DataKey: key,
		TLSRequest: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})),
		NKey:       pub, Protection: "software", Software: "test"}
}

// Granted takes the facility's answer.
func (b *Box) Granted(g *enrolment.Grant) {
	b.t.Helper()
	b.grant = g
	var network []record.ReaderKey
	for _, s := range g.Readers.Network {
		k, err := record.ParseReaderKey(s)
		if err != nil {
			b.t.Fatal(err)
		}
		network = append(network, k)
	}
	var err error
	if b.sealer, err = record.NewSealer(b.ID, network, nil); err != nil {
		b.t.Fatal(err)
	}
}

// Grant is the facility's answer.
func (b *Box) Grant() *enrolment.Grant { return b.grant }

// Options are how the box connects.
func (b *Box) Options() []nats.Option {
	b.t.Helper()
	block, _ := pem.Decode([]byte(b.grant.TLSCertificate))
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM([]byte(b.grant.CA)) {
		b.t.Fatal("the grant has no CA certificate")
	}
	pub, err := b.NKey.PublicKey()
	if err != nil {
		b.t.Fatal(err)
	}
	return []nats.Option{
		nats.Secure(&tls.Config{MinVersion: tls.VersionTLS13, RootCAs: roots,
			Certificates: []tls.Certificate{{Certificate: [][]byte{block.Bytes}, PrivateKey: b.TLS}}}),
		nats.TLSHandshakeFirst(), nats.NoReconnect(), nats.Nkey(pub, b.NKey.Sign),
		nats.CustomInboxPrefix("_ACK." + b.ID.Name), nats.Timeout(patience),
	}
}

// Connect connects as the box.
func (b *Box) Connect(url string) *nats.Conn {
	b.t.Helper()
	nc, err := nats.Connect(url, b.Options()...)
	if err != nil {
		b.t.Fatalf("box %s cannot connect to %s: %v", b.ID, url, err)
	}
	b.t.Cleanup(nc.Close)
	return nc
}

// Record seals n vital-sign readings, appends them to the log and signs it once.
func (b *Box) Record(n int) []record.Published {
	b.t.Helper()
	readings := make([]record.Reading, n)
	for i := range readings {
		value := 60 + (len(b.Log)+i)%40
		readings[i] = record.Reading{Kind: record.KindVitals, Patient: "patient-1", Observed: time.Now(), Arrived: time.Now(),
			Content: record.Content{Monitor: "bed-1", Via: "test", Raw: []byte("MSH|^~\\&|"), Bundle: Bundle(value)}}
	}
	return b.Readings(readings...)
}

// Readings seals the given readings, appends them to the log and signs it once.
func (b *Box) Readings(readings ...record.Reading) []record.Published {
	b.t.Helper()
	var leaves []record.Leaf
	for _, r := range readings {
		l, err := b.sealer.Seal(b.tree.Size()+uint64(len(leaves)), r)
		if err != nil {
			b.t.Fatal(err)
		}
		leaves = append(leaves, l...)
	}
	return b.Append(leaves...)
}

// Append appends leaves as they are and signs the log.
func (b *Box) Append(leaves ...record.Leaf) []record.Published {
	b.t.Helper()
	prev := b.tree
	for _, l := range leaves {
		b.tree.Append(l)
	}
	b.clock++
	b.last = record.Checkpoint{Origin: b.ID.Origin(), Size: b.tree.Size(), Root: b.tree.Root(), Boot: max(b.Resets, 1), Clock: b.clock,
		Counter: max(b.Starts, 1), Protection: "software"}
	sc, err := b.last.Sign(b.Data)
	if err != nil {
		b.t.Fatal(err)
	}
	out, err := record.Prove(prev, leaves, sc)
	if err != nil {
		b.t.Fatal(err)
	}
	b.Log = append(b.Log, out...)
	return out
}

// Restart starts the box again: its chip counts one start more, and its log begins it with a boot leaf.
func (b *Box) Restart() []record.Published {
	b.t.Helper()
	b.Starts = max(b.Starts, 1) + 1
	boot, err := b.sealer.Boot(b.tree.Size(), record.Boot{Resets: max(b.Resets, 1), Counter: b.Starts, Protection: "software", Software: "test", LastSize: b.last.Size, LastRoot: b.last.Root})
	if err != nil {
		b.t.Fatal(err)
	}
	return b.Append(boot)
}

// Fork is the box as a copied disk would have it: the same keys, the log cut back to size.
func (b *Box) Fork(size int) *Box {
	b.t.Helper()
	f := *b
	f.Log = append([]record.Published(nil), b.Log[:size]...)
	f.tree = record.Tree{}
	f.last = record.Checkpoint{}
	for _, p := range f.Log {
		f.tree.Append(p.Leaf)
		if c, err := p.Checkpoint.Unverified(); err == nil && c.Size <= uint64(size) {
			f.last = c
		}
	}
	f.Granted(b.grant) // a new sealer, so a new epoch
	return &f
}

// observed is when every reading of this process was made: a page of live beds shows only what is not long past.
var observed = time.Now().UTC().Format(time.RFC3339)

// Rekey gives the box fresh keys, as a new chip has them. Its log goes on.
func (b *Box) Rekey() {
	b.t.Helper()
	b.Data, b.TLS = Key(b.t), Key(b.t)
	var err error
	if b.NKey, err = nkeys.CreateUser(); err != nil {
		b.t.Fatal(err)
	}
}

// Bundle is a heart-rate reading as a FHIR R4 Bundle.
func Bundle(rate int) []byte {
	return fmt.Appendf(nil, `{"resourceType":"Bundle","type":"collection","entry":[{"fullUrl":"urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0",`+
		`"resource":{"resourceType":"Observation","id":"0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0","status":"final","category":[{"coding":[{"system":"http://terminology.hl7.org/CodeSystem/observation-category","code":"vital-signs"}]}],`+
		`"code":{"coding":[{"system":"http://loinc.org","code":"8867-4"}]},"subject":{"display":"unknown"},"effectiveDateTime":%q,`+
		`"valueQuantity":{"value":%d,"unit":"/min","system":"http://unitsofmeasure.org","code":"/min"}}}]}`, observed, rate)
}

// Publish sends records to the box's subject in atomic batches and waits for the acknowledgements.
func (b *Box) Publish(nc *nats.Conn, records []record.Published) {
	b.t.Helper()
	all := make([][]byte, len(records))
	for i, p := range records {
		var err error
		if all[i], err = p.AppendBinary(nil); err != nil {
			b.t.Fatal(err)
		}
	}
	b.Send(nc, all...)
}

// Refusal is what the stream answers instead of an acknowledgement.
type Refusal struct {
	Code        int `json:"err_code"`
	Description string
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s (%d)", r.Description, r.Code) }

// TryPublish sends records as one atomic batch. The error is a *Refusal where the stream refuses it.
func (b *Box) TryPublish(nc *nats.Conn, records []record.Published) error {
	b.t.Helper()
	all := make([][]byte, len(records))
	for i, p := range records {
		var err error
		if all[i], err = p.AppendBinary(nil); err != nil {
			b.t.Fatal(err)
		}
	}
	return b.batch(nc, all)
}

// Send sends messages of any content to the box's subject in atomic batches and waits for the acknowledgements.
func (b *Box) Send(nc *nats.Conn, messages ...[]byte) {
	b.t.Helper()
	for len(messages) > 0 {
		batch := messages[:min(len(messages), 1000)]
		if err := b.batch(nc, batch); err != nil {
			b.t.Fatalf("box %s cannot publish: %v", b.ID, err)
		}
		messages = messages[len(batch):]
	}
}

func (b *Box) batch(nc *nats.Conn, batch [][]byte) error {
	id := nuid.Next()
	for i, data := range batch {
		m := &nats.Msg{Subject: b.ID.Subject(), Data: data, Header: nats.Header{
			"Nats-Batch-Id": {id}, "Nats-Batch-Sequence": {strconv.Itoa(i + 1)}}}
		if i < len(batch)-1 {
			if err := nc.PublishMsg(m); err != nil {
				return err
			}
			continue
		}
		m.Header.Set("Nats-Batch-Commit", "1")
		// The stream of a box that was registered a moment ago may not be there yet.
		answer, err := nc.RequestMsg(m, patience)
		if err != nil {
			return err
		}
		var ack struct {
			Seq   uint64
			Error *Refusal
		}
		if err := json.Unmarshal(answer.Data, &ack); err != nil {
			return err
		}
		if ack.Error != nil {
			return ack.Error
		}
	}
	return nil
}
