package record

import (
	"crypto/cipher"
	"crypto/hpke"
	"errors"
	"fmt"

	"github.com/klauspost/compress/zstd"
)

// Why an Opener cannot open a record.
var (
	ErrNoContent    = errors.New("a control leaf has no content")
	ErrUnknownEpoch = errors.New("the epoch leaf was not seen yet") // give the verified leaf at Header.Epoch to Open first
	ErrNoKey        = errors.New("no private key at hand opens this epoch")
	ErrNoPatientKey = fmt.Errorf("%w: the patient side is missing", ErrNoKey) // no fault of a reader of the network side alone
)

// Opener opens the records of any number of boxes for a reader. It learns the key of an epoch when the epoch leaf is given to
// Open. It is not for concurrent use.
type Opener struct {
	secrets map[string]ReaderSecret // by key id
	epochs  map[epochName]opened
	order   []epochName // oldest first
	zstd    *zstd.Decoder
}

type epochName struct {
	box   BoxID
	index uint64
}

type opened struct {
	key     cipher.AEAD
	patient string
	err     error
}

const maxOpened = 8192

// NewOpener returns an Opener with the private keys of a reader. An epoch with two sides needs a key of each.
func NewOpener(secrets ...ReaderSecret) *Opener {
	o := &Opener{secrets: map[string]ReaderSecret{}, epochs: map[epochName]opened{}, zstd: newDecompressor()}
	for _, s := range secrets {
		o.secrets[s.pub.id] = s
	}
	return o
}

// Open opens a record and checks its content against the commitment in the signed header. For a control leaf the error is
// ErrNoContent; an epoch leaf is learned by the way, and the error is ErrNoKey if none of the keys fits it.
// The content is the caller's.
func (o *Opener) Open(v Verified) (Content, error) {
	h := v.header
	switch h.Kind {
	case "":
		return Content{}, errors.New("cannot open record: it was not verified")
	case KindBoot:
		return Content{}, ErrNoContent
	case KindEpoch:
		if err := o.learn(v); err != nil {
			return Content{}, fmt.Errorf("cannot open epoch %d of box %s: %w", h.Index, h.Box, err)
		}
		return Content{}, ErrNoContent
	}
	c, err := o.open(v)
	if err != nil {
		return Content{}, fmt.Errorf("cannot open record %d of box %s: %w", h.Index, h.Box, err)
	}
	return c, nil
}

func (o *Opener) open(v Verified) (Content, error) {
	h := v.header
	e, ok := o.epochs[epochName{h.Box, h.Epoch}]
	switch {
	case !ok:
		return Content{}, ErrUnknownEpoch
	case e.err != nil:
		return Content{}, e.err
	case e.patient != h.Patient:
		return Content{}, refuse(ReasonEpoch, "the record names another patient than its epoch")
	}
	leaf := v.published.Leaf
	plain, err := e.key.Open(nil, nonce(h.Index), v.body, leaf[:len(leaf)-len(v.body)])
	if err != nil {
		return Content{}, refuse(ReasonSeal, "the body was not sealed with the key of its epoch")
	}
	content, err := o.content(plain, h.Commit)
	if err != nil {
		return Content{}, refuse(ReasonContent, err.Error())
	}
	c, err := ParseContent(content)
	if err != nil {
		return Content{}, refuse(ReasonContent, err.Error())
	}
	return c, nil
}

// content undoes the encoding and checks the commitment.
func (o *Opener) content(plain []byte, commit [32]byte) (content []byte, err error) {
	if len(plain) < saltSize+1 {
		return nil, errors.New("the body is too short")
	}
	salt, content := plain[:saltSize], plain[saltSize+1:]
	switch plain[saltSize] {
	case encodingNone:
	case encodingZstd:
		if content, err = decompress(o.zstd, content); err != nil {
			return nil, err
		}
	default:
		return nil, errors.New("the encoding of the content is unknown to this version")
	}
	if commitment(salt, content) != commit {
		return nil, errors.New("the content is not the one that the box has signed for")
	}
	return content, nil
}

// learn keeps the key of an epoch, or why there is none.
func (o *Opener) learn(v Verified) error {
	name := epochName{v.header.Box, v.header.Index}
	if e, ok := o.epochs[name]; ok && e.err == nil {
		return nil
	}
	key, err := o.key(v)
	if _, ok := o.epochs[name]; !ok {
		if len(o.order) == maxOpened {
			delete(o.epochs, o.order[0])
			o.order = o.order[1:]
		}
		o.order = append(o.order, name)
	}
	o.epochs[name] = opened{key, v.header.Patient, err}
	return err
}

func (o *Opener) key(v Verified) (cipher.AEAD, error) {
	box, index := v.header.Box, v.header.Index
	list, err := parseEpoch(v.body)
	if err != nil {
		return nil, refuse(ReasonEpoch, err.Error())
	}
	var all []byte
	defer func() { clear(all) }()
	for i := 0; i < len(list); {
		s := list[i].side
		var share []byte
		for ; i < len(list) && list[i].side == s; i++ {
			secret, ok := o.secrets[list[i].reader]
			if !ok || share != nil {
				continue
			}
			share, err = hpke.Open(secret.priv, kdf, aead, shareInfo(box, index, s, list[i].reader), list[i].sealed)
			if err != nil || len(share) != shareSize {
				return nil, refuse(ReasonShare, fmt.Sprintf("the share of the %s side does not open with reader key %s", s, list[i].reader))
			}
		}
		if share == nil {
			if s == sidePatient {
				return nil, fmt.Errorf("%w, which is sealed to %s", ErrNoPatientKey, readersOf(list, s))
			}
			return nil, fmt.Errorf("%w: the %s side is missing, which is sealed to %s", ErrNoKey, s, readersOf(list, s))
		}
		all = append(all, share...)
		clear(share)
	}
	return contentKey(all, v.published.Leaf, box, index)
}

// readersOf names the readers of a side, for who looks for a key.
func readersOf(list []sealedShare, s side) string {
	text := "reader key"
	for _, share := range list {
		if share.side == s {
			text += " " + share.reader
		}
	}
	return text
}
