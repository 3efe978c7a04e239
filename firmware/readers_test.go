package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"math/big"
	"path/filepath"
	"testing"
	"time"

	"github.com/vitalgate/vitalgate/firmware/enrol"
	"github.com/vitalgate/vitalgate/firmware/pipeline"
	"github.com/vitalgate/vitalgate/record"
	"github.com/vitalgate/vitalgate/record/enrolment"
)

// A set that was taken while the box started, after it had read the one before, is sealed for.
func TestReadersTakenWhileTheBoxStarts(t *testing.T) {
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	ca, own := key(), key()
	authority := &x509.Certificate{SerialNumber: big.NewInt(1), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	certificate := func(of *ecdsa.PrivateKey, c *x509.Certificate) string {
		der, err := x509.CreateCertificate(rand.Reader, c, authority, of.Public(), ca)
		if err != nil {
			t.Fatal(err)
		}
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	reader := func() string {
		s, err := record.GenerateReaderKey()
		if err != nil {
			t.Fatal(err)
		}
		return s.Public().String()
	}
	dir := t.TempDir()
	grant := filepath.Join(dir, "grant.json")
	g := enrolment.Grant{Version: enrolment.Version, Box: "f1/gw1", CA: certificate(ca, authority),
		TLSCertificate: certificate(own, &x509.Certificate{SerialNumber: big.NewInt(2)}),
		Leaves:         []enrolment.Leaf{{Name: "hub", URL: "tls://hub:7422"}}, Readers: enrolment.Readers{Network: []string{reader()}}}
	if err := g.Sign(ca); err != nil {
		t.Fatal(err)
	}
	if err := enrolment.Write(grant, g); err != nil {
		t.Fatal(err)
	}
	set := enrolment.ReaderSet{Version: enrolment.Version, Facility: "f1", Number: 1, Readers: enrolment.Readers{Network: []string{reader()}}}
	if err := set.Sign(ca); err != nil {
		t.Fatal(err)
	}
	if err := set.Replace(enrol.ReadersFile(dir)); err != nil {
		t.Fatal(err)
	}
	want, _, err := set.Readers.Keys()
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	var got []record.ReaderKey
	err = followReaders(ctx, grant, record.BoxID{Facility: "f1", Name: "gw1"}, dir, 0, func(_ context.Context, r pipeline.Readers) {
		got = r.Network
		stop()
	}, slog.New(slog.DiscardHandler))
	text := record.ReaderKey.String
	if err != nil || len(got) != 1 || text(got[0]) != text(want[0]) {
		t.Errorf("the line is given %d keys, or not that of the set: %v", len(got), err)
	}
}
