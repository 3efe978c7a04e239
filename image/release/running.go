package release

// Running is what a slot knows of itself, in its initial RAM disk, which is signed with the slot.
type Running struct {
	Version       string `json:"version"`
	RollbackIndex uint32 `json:"rollback_index"`
	Keys          string `json:"keys"` // as in the manifest
}

// Places in the initial RAM disk.
const (
	RunningPath    = "/etc/vitalgate/release.json"
	ReleaseKeyPath = "/etc/vitalgate/release.pub.pem"
	FactoryKeys    = "/etc/vitalgate/secure-boot" // db.auth, KEK.auth, PK.auth
)

// Where the stub puts the sections .pcrpkey and .pcrsig (systemd-stub(7)): the key that approves releases, and its approvals
// of this one, in the form of package attestation.
const (
	ApprovalKeyPath = "/.extra/tpm2-pcr-public-key.pem"
	ApprovalsPath   = "/.extra/tpm2-pcr-signature.json"
)
