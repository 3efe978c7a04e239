#!/usr/bin/env python3
"""Verify one exported vitalgate record with nothing but Python 3 and openssl (docs/spec/record.md, "Verify").

usage: verify.py BOX-PUBLIC-KEY.pem RECORD.leaf RECORD.tlog-proof FACILITY/NAME [ATTESTATION-KEY.pem]

With the attestation key of the box, what its TPM says in a boot leaf of form 2 is checked, too.
"""
import base64, hashlib, os, subprocess, sys, tempfile

def need(ok, why):
    if not ok: sys.exit("REFUSED: " + why)

def unbase64(s):
    raw = base64.b64decode(s, validate=True)
    need(base64.b64encode(raw).decode() == s, "base64 is not in its canonical form")
    return raw

def signed(pem, text, signature):
    with tempfile.TemporaryDirectory() as tmp:
        file = os.path.join(tmp, "signature")
        open(file, "wb").write(signature)
        return subprocess.run(["openssl", "dgst", "-sha256", "-verify", pem, "-signature", file],
                              input=text, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0

class Attest:
    """A TPMS_ATTEST (TPM 2.0 Library part 2, section 10.12.12)."""
    def __init__(self, raw):
        self.rest = raw
        self.magic, self.kind = self.number(4), self.number(2)
        self.signer, self.about, self.clock = self.sized(), self.sized(), self.number(8)
        self.resets, self.restarts, self.safe, self.firmware = self.number(4), self.number(4), self.number(1), self.number(8)
    def take(self, n):
        need(len(self.rest) >= n, "a statement of the TPM is cut short")
        head, self.rest = self.rest[:n], self.rest[n:]
        return head
    def number(self, n): return int.from_bytes(self.take(n), "big")
    def sized(self): return self.take(self.number(2))

def started(lak, body, box):
    """What the TPM says of a start (docs/spec/record.md, "Control leaves")."""
    lines = body.decode().split("\n")
    need(lines[0] == "vitalgate/boot/v2" and lines[-1] == "", "the boot leaf is not of form 2: its counters are the box's own word")
    claims, evidence = lines[:8], [line.split(" ") for line in lines[8:-1]]
    said = dict(line.split(" ", 1) for line in claims[1:])
    pcrs = {int(number): bytes.fromhex(value) for key, number, value in evidence[:-2] if key == "pcr"}
    (quote, certify), binding = evidence[-2:], hashlib.sha256(("vitalgate/" + box + "\n" + "\n".join(claims) + "\n").encode()).digest()
    need([quote[0], certify[0]] == ["quote", "certify"] and len(pcrs) == len(evidence) - 2 and pcrs.keys() >= {*range(8), 11}, "the evidence is not whole")
    both = []
    for _, attest, signature in (quote, certify):
        need(signed(lak, unbase64(attest), unbase64(signature)), "a statement is not signed by the attestation key")
        both.append(Attest(unbase64(attest)))
        need(both[-1].magic == 0xff544347, "a statement was not made by a TPM")
        need(both[-1].about == binding, "a statement is about another box, log or start")
        need((both[-1].resets, both[-1].restarts) == (int(said["resets"]), int(said["restarts"])), "the resets are not those that the TPM has counted")
    quote, certify = both
    need(quote.kind == 0x8018 and certify.kind == 0x8014, "the statements are of other kinds")
    bits = sum(1 << n for n in pcrs).to_bytes(3, "little")
    need(quote.rest[:10] == b"\0\0\0\1\0\x0b\3" + bits, "the quote is of other PCRs")
    quote.take(10)
    need(quote.sized() == hashlib.sha256(b"".join(pcrs[n] for n in sorted(pcrs))).digest() and not quote.rest, "the PCRs have other values")
    # The NV index is the boot counter: 0x01800100, SHA-256, a counter that only its password raises, written.
    index = bytes.fromhex("01800100" "000b" "22060014" "0000" "0008")
    need(certify.sized() == b"\0\x0b" + hashlib.sha256(index).digest() and certify.number(2) == 0, "the counter is another one")
    need(int.from_bytes(certify.sized(), "big") == int(said["counter"]) and not certify.rest, "the counter is not the one that the TPM has")
    need(certify.clock >= quote.clock and certify.firmware == quote.firmware, "the statements are of two runs of the TPM")
    return f"; the TPM attests its start: counter {said['counter']}, reset {said['resets']}, PCR 11 {pcrs[11].hex()}"

def verify(pem, leaf, proof, box, lak=None):
    head, note = proof.decode().split("\n\n", 1)
    magic, index, *path = head.split("\n")
    need(magic == "c2sp.org/tlog-proof@v1" and index.startswith("index "), "this is not a tlog-proof")
    index, path = int(index[6:]), [unbase64(h) for h in path]
    # 1. The box signed the checkpoint: ECDSA P-256 with SHA-256 over its text (signed note, type 0x02).
    text, signatures = note.split("\n\n", 1)
    origin, size, root, *extensions = text.split("\n")
    dash, name, signature = signatures.split("\n")[0].split(" ")
    need(origin == name == "vitalgate/" + box and dash == "\u2014", "the checkpoint is not of box " + box)
    need(signed(pem, (text + "\n").encode(), unbase64(signature)[4:]), "the signature of the checkpoint is wrong")
    # 2. The signed tree holds the leaf at that index (RFC 9162 section 2.1.3.2).
    fn, sn, node = index, int(size) - 1, hashlib.sha256(b"\0" + leaf).digest()
    need(0 <= fn <= sn, "the checkpoint does not reach to the record")
    for sibling in path:
        need(sn > 0, "the path is too long")
        left = fn & 1 or fn == sn
        node = hashlib.sha256(b"\1" + (sibling + node if left else node + sibling)).digest()
        while left and not fn & 1 and fn: fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0 and node == unbase64(root), "the record is not in the signed log")
    # 3. The leaf names this box and this index.
    header = dict(line.split(" ", 1) for line in leaf.split(b"\n\n")[0].decode().split("\n")[1:])
    need(leaf.startswith(b"vitalgate/record/v1\n") and header["box"] == box and header["index"] == str(index), "the leaf names another box or index")
    attested = started(lak, leaf.split(b"\n\n", 1)[1], box) if lak and header["kind"] == "boot" else ""
    return f"OK: record {index} of {size}, {header['kind']}, arrived {header['arrived']}, box {box}, {', '.join(filter(None, extensions))}{attested}"

if __name__ == "__main__":
    need(len(sys.argv) in (5, 6), __doc__.strip())
    _, pem, leaf, proof, box, *lak = sys.argv
    try: print(verify(pem, open(leaf, "rb").read(), open(proof, "rb").read(), box, *lak))
    except (ValueError, KeyError, OSError) as e: need(False, f"malformed: {e}")
