package tpm

import (
	"context"
	"encoding/binary"
	"fmt"
	"time"

	"github.com/google/go-tpm/tpm2"
)

// link is a connection to a TPM: one command, one answer, in turn. An error means that the connection is no longer in
// step and must be closed.
type link interface {
	exchange(ctx context.Context, command []byte) (answer []byte, err error)
	close() error
	String() string
}

// patience is how long a TPM may take for one command.
type patience struct {
	most time.Duration // any command
	make time.Duration // making a key
}

var (
	swtpmPatience  = patience{most: 5 * time.Second, make: 30 * time.Second}
	devicePatience = patience{most: 20 * time.Second, make: 2 * time.Minute} // RSA key generation on old chips takes a minute
)

// bus sends the commands of go-tpm over a link: with a deadline each, and again where the TPM says "later".
type bus struct {
	ctx      context.Context
	link     link
	patience patience
	broken   error // the link's error, after which only close is left
}

const (
	headerSize = 10   // tag, size, code (part 1 §18)
	answerMost = 8192 // no answer of ours is near the 4096 bytes that TPMs buffer
)

// Send implements transport.TPM.
func (b *bus) Send(command []byte) ([]byte, error) {
	if b.broken != nil {
		return nil, b.broken
	}
	most := b.patience.most
	switch code := tpm2.TPMCC(binary.BigEndian.Uint32(command[6:])); code {
	case tpm2.TPMCCCreatePrimary, tpm2.TPMCCCreate:
		most = b.patience.make
	}
	ctx, cancel := context.WithTimeoutCause(b.ctx, most, fmt.Errorf("%v did not answer within %v", b.link, most))
	defer cancel()
	for pause := time.Millisecond; ; pause = min(2*pause, time.Second) {
		answer, err := b.link.exchange(ctx, command)
		if err == nil && (len(answer) < headerSize || uint32(len(answer)) != binary.BigEndian.Uint32(answer[2:])) {
			err = fmt.Errorf("%v gave an answer that is no TPM 2.0 response", b.link)
		}
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			b.broken = err
			return nil, err
		}
		if !later(tpm2.TPMRC(binary.BigEndian.Uint32(answer[6:]))) {
			return answer, nil
		}
		select { // the command was not begun: the same bytes may be sent again (part 2 §6.6.3)
		case <-time.After(pause):
		case <-ctx.Done():
			return answer, nil
		}
	}
}

func later(rc tpm2.TPMRC) bool {
	switch rc {
	case tpm2.TPMRCRetry, tpm2.TPMRCYielded, tpm2.TPMRCTesting, tpm2.TPMRCNVRate, tpm2.TPMRCNVUnavailable:
		return true
	}
	return false
}
