#!/usr/bin/env python3
"""Verify one exported vitalgate record with nothing but Python 3 and openssl (docs/spec/record.md, "Verify").

usage: verify.py BOX-PUBLIC-KEY.pem RECORD.leaf RECORD.tlog-proof FACILITY/NAME
"""
import base64, hashlib, os, subprocess, sys, tempfile

def need(ok, why):
    if not ok: sys.exit("REFUSED: " + why)

def unbase64(s):
    raw = base64.b64decode(s, validate=True)
    need(base64.b64encode(raw).decode() == s, "base64 is not in its canonical form")
    return raw

def verify(pem, leaf, proof, box):
    head, note = proof.decode().split("\n\n", 1)
    magic, index, *path = head.split("\n")
    need(magic == "c2sp.org/tlog-proof@v1" and index.startswith("index "), "this is not a tlog-proof")
    index, path = int(index[6:]), [unbase64(h) for h in path]
    # 1. The box signed the checkpoint: ECDSA P-256 with SHA-256 over its text (signed note, type 0x02).
    text, signatures = note.split("\n\n", 1)
    origin, size, root, *extensions = text.split("\n")
    dash, name, signature = signatures.split("\n")[0].split(" ")
    need(origin == name == "vitalgate/" + box and dash == "\u2014", "the checkpoint is not of box " + box)
    with tempfile.TemporaryDirectory() as tmp:
        file = os.path.join(tmp, "signature")
        open(file, "wb").write(unbase64(signature)[4:])
        openssl = subprocess.run(["openssl", "dgst", "-sha256", "-verify", pem, "-signature", file],
                                 input=(text + "\n").encode(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    need(openssl.returncode == 0, "the signature of the checkpoint is wrong")
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
    return f"OK: record {index} of {size}, {header['kind']}, arrived {header['arrived']}, box {box}, {', '.join(filter(None, extensions))}"

if __name__ == "__main__":
    need(len(sys.argv) == 5, __doc__.strip())
    _, pem, leaf, proof, box = sys.argv
    try: print(verify(pem, open(leaf, "rb").read(), open(proof, "rb").read(), box))
    except (ValueError, KeyError, OSError) as e: need(False, f"malformed: {e}")
