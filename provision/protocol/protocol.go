// Package protocol is what the field tool (vitalprov) and a box say to each other on the provisioning link: HTTPS with TLS 1.3,
// JSON bodies. Both ends import it; it knows neither. docs/adr/0030 says why it is as it is.
//
// The box is known by its link key, which the label on it names. The tool is let in by the claim code of the label as long as the
// box has no owner, and by a certificate of the owner's authority from then on.
package protocol

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"time"
)

// Port is where a box listens for the field tool.
const Port = "8471"

// Version of the protocol.
const Version = 1

// ClaimScheme is the scheme of the Authorization header that carries the claim code (RFC 9110 §11.4).
const ClaimScheme = "Claim"

// Paths. The methods and who may call them stand in the table of package maintain.
const (
	PathBox       = "/v1/box"       // GET Box: all that a stranger is told
	PathAbout     = "/v1/about"     // GET About
	PathCheck     = "/v1/check"     // POST Plan: refused if the box could not work with it; nothing is kept
	PathRequest   = "/v1/request"   // POST Ask; answers an enrolment.Request
	PathChallenge = "/v1/challenge" // POST attestation.Question of the facility; answers an attestation.Answer of the TPM
	PathProvision = "/v1/provision" // PUT Provision: the grant and the configuration, or one of them on a box that has both
	PathStatus    = "/v1/status"    // GET Status
	PathReaders   = "/v1/readers"   // GET Readers; PUT enrolment.ReaderSet: seal for these from now on; answers Readers
	PathTest      = "/v1/hwtest"    // POST TestOptions; answers a signed report
	PathNetwork   = "/v1/network"   // GET Network; PUT Network: try; answers Trial
	PathKeep      = "/v1/network/keep"
	PathUpdate    = "/v1/update" // PUT bundle; answers lines of Progress
	PathReset     = "/v1/reset"  // POST Reset; answers ResetDone
)

// Box is all that a stranger is told.
type Box struct {
	Protocol int    `json:"protocol"`
	Name     string `json:"name"`  // Label.Name
	Owned    bool   `json:"owned"` // provisioned: only the owner's tools are let in
}

// About is what a person at the box must know to provision it.
type About struct {
	Name       string            `json:"name"`
	Box        string            `json:"box,omitempty"` // facility/name, of a provisioned box
	Software   string            `json:"software"`
	Owned      bool              `json:"owned"`
	Working    bool              `json:"working"`           // the line from monitor to network runs
	Trouble    string            `json:"trouble,omitempty"` // why it does not
	Lines      []string          `json:"lines"`             // serial devices, by the names that stay the same
	Interfaces []Interface       `json:"interfaces"`
	Dialects   []Dialect         `json:"dialects"`
	System     map[string]string `json:"system,omitempty"` // slot, rollback index …, where the image gives them
	Can        []string          `json:"can"`              // of "hwtest", "network", "update"
	Config     string            `json:"config,omitempty"` // TOML in force
	Time       time.Time         `json:"time"`
}

// Interface is a network interface of the box.
type Interface struct {
	Name      string   `json:"name"`
	Up        bool     `json:"up"`
	Addresses []string `json:"addresses"`
}

// Dialect is a monitor family that this firmware knows.
type Dialect struct {
	Name    string `json:"name"`
	Title   string `json:"title"`
	Framing string `json:"framing"`
	Role    string `json:"role"`
}

// Ask is the wish for an enrolment request.
type Ask struct {
	Box string `json:"box"` // facility/name that the box is to have
}

// Plan is a configuration that a box might be given: it is asked before the facility decides, which cannot be taken back.
type Plan struct {
	Box    string `json:"box"`    // facility/name that the box is to have
	Config string `json:"config"` // as in Provision
}

// Provision is what makes a box somebody's. On a box that is nobody's both parts are needed.
type Provision struct {
	Grant  json.RawMessage `json:"grant,omitempty"`  // enrolment.Grant
	Config string          `json:"config,omitempty"` // TOML, without box.data, network.grant and tpm: those are the box's own
}

// Status is the state of the line from monitor to network.
type Status struct {
	Working bool            `json:"working"`
	Trouble string          `json:"trouble,omitempty"`
	Report  json.RawMessage `json:"report,omitempty"` // of the status page; no patient data
}

// Readers is whom the box seals for.
type Readers struct {
	Number    uint64 `json:"number"`  // of the set; 0: those of the grant
	Network   int    `json:"network"` // how many keys
	Patient   int    `json:"patient"`
	PerRecord bool   `json:"per_record"`
}

// TestOptions choose the hardware test.
type TestOptions struct {
	Factory bool `json:"factory"` // also what needs loopback plugs and may disturb
}

// Network are the settings of one interface.
type Network struct {
	Interface string   `json:"interface"`
	Method    string   `json:"method"`            // dhcp or static
	Address   string   `json:"address,omitempty"` // with prefix length: 10.0.0.5/24
	Gateway   string   `json:"gateway,omitempty"`
	DNS       []string `json:"dns,omitempty"`
	NTP       []string `json:"ntp,omitempty"`
	VLAN      int      `json:"vlan,omitempty"` // IEEE 802.1Q tag, 0 none
}

// Trial says that new settings are being tried. Without a Keep within the time the old ones come back.
type Trial struct {
	Token   string `json:"token"`
	Seconds int    `json:"seconds"`
}

// Keep makes settings last. It must come over the new settings.
type Keep struct {
	Token string `json:"token"`
}

// Progress is one line of the answer to a long operation; the last one is Done or has an Error.
type Progress struct {
	Say   string `json:"say,omitempty"`
	Done  bool   `json:"done,omitempty"`
	Error string `json:"error,omitempty"`
}

// Reset makes the box nobody's: everything on it is wiped.
type Reset struct {
	NewLabel bool `json:"new_label"` // the label that is on the box is void: take the one of the answer
}

// ResetDone is the answer to Reset.
type ResetDone struct {
	Label string `json:"label,omitempty"` // with NewLabel
	Note  string `json:"note,omitempty"`  // what a person should know
}

// Failure is the body of every answer that is not 2xx.
type Failure struct {
	Error string `json:"error"`
}

// ToolURI is the name, in a certificate of the facility's authority, that makes its holder a field tool. Boxes and peers have
// certificates of the same authority and do not have it.
func ToolURI(facility, tool string) *url.URL {
	return &url.URL{Scheme: "vitalgate", Opaque: "field-tool/" + facility + "/" + tool}
}

// CheckTool says whether the certificate was given by the authority to a field tool of the facility, and is in force at the time.
func CheckTool(c, authority *x509.Certificate, facility string, at time.Time) error {
	pool := x509.NewCertPool()
	pool.AddCert(authority)
	_, err := c.Verify(x509.VerifyOptions{Roots: pool, CurrentTime: at, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
	if err != nil {
		return fmt.Errorf("cannot accept the tool's certificate: %w", err)
	}
	if !slices.ContainsFunc(c.URIs, func(u *url.URL) bool {
		return u.Scheme == "vitalgate" && len(u.Opaque) > len("field-tool/"+facility+"/") && u.Opaque[:len("field-tool/"+facility+"/")] == "field-tool/"+facility+"/"
	}) {
		return errors.New("cannot accept the tool's certificate: it is not that of a field tool of this facility")
	}
	return nil
}

// ClientTLS is the tool's end of the link: the box is the one whose key is on the label, and nothing else counts.
func ClientTLS(l Label, tool *tls.Certificate) *tls.Config {
	c := &tls.Config{
		MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, // in place of names and authorities: the key on the label
		VerifyConnection: func(s tls.ConnectionState) error {
			if len(s.PeerCertificates) == 0 || !l.Matches(s.PeerCertificates[0]) {
				return errors.New("what answers is not the box with this label; somebody may be in between: check the address and the label")
			}
			return nil
		},
	}
	if tool != nil {
		c.Certificates = []tls.Certificate{*tool}
	}
	return c
}
