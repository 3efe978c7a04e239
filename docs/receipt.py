#!/usr/bin/env python3
"""Verify a COSE receipt (RFC 9942) of a vitalgate record with Python, the module cbor2 and openssl.

usage: receipt.py AUTHORITY.pem RECORD.leaf RECEIPT.cose
"""
import hashlib, os, subprocess, sys, tempfile
import cbor2

def need(ok, why):
    if not ok: sys.exit("REFUSED: " + why)

def root(size, index, path, leaf):  # RFC 9162 section 2.1.3.2
    fn, sn, node = index, size - 1, hashlib.sha256(b"\0" + leaf).digest()
    need(0 <= fn <= sn, "the tree does not reach to the record")
    for sibling in path:
        need(sn > 0, "the path is too long")
        left = fn & 1 or fn == sn
        node = hashlib.sha256(b"\1" + (sibling + node if left else node + sibling)).digest()
        while left and not fn & 1 and fn: fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    need(sn == 0, "the path is too short")
    return node

def der(signature):  # r and s as an ECDSA-Sig-Value
    def integer(b):
        b = b.lstrip(b"\0") or b"\0"
        b = b"\0" + b if b[0] & 0x80 else b
        return b"\2" + bytes([len(b)]) + b
    both = integer(signature[:32]) + integer(signature[32:])
    return b"\x30" + bytes([len(both)]) + both

def verify(authority, leaf, receipt):
    receipt = cbor2.loads(receipt)
    need(isinstance(receipt, cbor2.CBORTag) and receipt.tag == 18 and len(receipt.value) == 4, "this is not a COSE_Sign1")
    protected, unprotected, payload, signature = receipt.value
    header = cbor2.loads(protected)
    need(header[1] == -7 and header[395] == 1 and payload is None and len(signature) == 64, "this is not a receipt of RFC9162_SHA256 with ES256")
    (proof,) = unprotected[396][-1]
    size, index, path = cbor2.loads(proof)
    tbs = cbor2.dumps(["Signature1", protected, b"", root(size, index, path, leaf)])
    with tempfile.TemporaryDirectory() as tmp:
        def file(name, b):
            with open(os.path.join(tmp, name), "wb") as f: f.write(b)
            return f.name
        def openssl(*args, input=None):
            return subprocess.run(["openssl", *args], input=input, capture_output=True)
        pem = openssl("x509", "-inform", "DER", input=header[33][0]).stdout
        cert = file("cert", pem)
        need(openssl("verify", "-no_check_time", "-CAfile", authority, cert).returncode == 0, "the signer is not of this authority")
        key = file("key", openssl("x509", "-in", cert, "-noout", "-pubkey").stdout)
        done = openssl("dgst", "-sha256", "-verify", key, "-signature", file("signature", der(signature)), input=tbs)
        need(done.returncode == 0, "the signature is wrong")
    claims = header[15]
    need(claims[2] == f"{leaf_log(leaf)}/{index}", "the receipt is of another record")
    return f"OK: {claims[1]} says that the log of {size} records holds {claims[2]}"

def leaf_log(leaf):
    header = dict(line.split(" ", 1) for line in leaf.split(b"\n\n")[0].decode().split("\n")[1:])
    return "vitalgate/" + header["box"]

if __name__ == "__main__":
    need(len(sys.argv) == 4, __doc__.strip())
    try: print(verify(sys.argv[1], open(sys.argv[2], "rb").read(), open(sys.argv[3], "rb").read()))
    except (ValueError, KeyError, TypeError, IndexError, OSError, cbor2.CBORDecodeError) as e: need(False, f"malformed: {e}")
