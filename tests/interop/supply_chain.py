#!/usr/bin/env python3
"""What other people's tools make of the documents that go with a release. Everything of one kind in one call, because starting takes
longer than reading.

    pip install -r requirements-supply.txt
    python supply_chain.py keys FOLDER                P-256 keys in both PEM forms: sec1.pem, pkcs8.pem, public.pem, stranger.pem
    python supply_chain.py verify PLAN                [[model, bundle, public key], ...]; prints for each null, or why it is refused
    python supply_chain.py bom FILE ...               CycloneDX 1.6, by the official schema, unknown parts refused; prints the same
    python supply_chain.py provenance PUBLIC FILE ... DSSE by securesystemslib, statement and predicate by in-toto's own types; prints
                                                      each statement, or null. PUBLIC is an ed25519 key in hex

Bundles are made with `python -m model_signing`, the tool as it is.
"""
import json
import pathlib
import sys


def keys(folder):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    folder = pathlib.Path(folder)
    key, none = ec.generate_private_key(ec.SECP256R1()), serialization.NoEncryption()
    pem, formats = serialization.Encoding.PEM, serialization.PrivateFormat
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    (folder / "sec1.pem").write_bytes(key.private_bytes(pem, formats.TraditionalOpenSSL, none))
    (folder / "pkcs8.pem").write_bytes(key.private_bytes(pem, formats.PKCS8, none))
    (folder / "public.pem").write_bytes(key.public_key().public_bytes(pem, spki))
    (folder / "stranger.pem").write_bytes(ec.generate_private_key(ec.SECP256R1()).public_key().public_bytes(pem, spki))


def verify(plan):
    import model_signing

    def one(model, bundle, key):
        try:
            # What `model_signing verify key` does.
            model_signing.verifying.Config().use_elliptic_key_verifier(public_key=key).verify(pathlib.Path(model), pathlib.Path(bundle))
        except Exception as error:  # noqa: BLE001: the tool lets whatever it meets come through
            return repr(error)

    return [one(*case) for case in json.loads(pathlib.Path(plan).read_text())]


def bom(*files):
    from cyclonedx.schema import SchemaVersion
    from cyclonedx.validation.json import JsonStrictValidator

    validator = JsonStrictValidator(SchemaVersion.V1_6)
    errors = [validator.validate_str(pathlib.Path(file).read_text()) for file in files]
    return [None if error is None else str(error)[:1000] for error in errors]


def provenance(public, *files):
    from google.protobuf import json_format
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2
    from in_toto_attestation.v1 import statement, statement_pb2
    from securesystemslib.dsse import Envelope
    from securesystemslib.exceptions import VerificationError
    from securesystemslib.signer import SSlibKey

    def one(file):
        data = json.loads(pathlib.Path(file).read_text())
        described = {"keytype": "ed25519", "scheme": "ed25519", "keyval": {"public": public}}
        key = SSlibKey.from_dict(data["signatures"][0]["keyid"], described)
        envelope = Envelope.from_dict(data)
        try:
            envelope.verify([key], 1)
        except VerificationError:
            return None
        if envelope.payload_type != "application/vnd.in-toto+json":
            sys.exit(envelope.payload_type)
        # Both readers refuse fields that they do not know.
        said = json.loads(envelope.payload)
        read = json_format.ParseDict(said, statement_pb2.Statement())
        statement.Statement.copy_from_pb(read).validate()
        json_format.ParseDict(said["predicate"], provenance_pb2.Provenance())
        return said

    return [one(file) for file in files]


if __name__ == "__main__":
    print(json.dumps({"keys": keys, "verify": verify, "bom": bom, "provenance": provenance}[sys.argv[1]](*sys.argv[2:])))
