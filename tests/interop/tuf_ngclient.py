#!/usr/bin/env python3
"""python-tuf, the reference implementation, at both ends of our repository format.

    pip install -r requirements-tuf.txt
    python tuf_ngclient.py read --root 1.root.json --url http://CONTROLLER --dir FOLDER [--target PATH ...]
    python tuf_ngclient.py make --dir FOLDER --plan PLAN.json

`read`: its client (`ngclient`) refreshes from a controller that runs, and downloads targets. A controller keeps models by digest, not
by path, so the fetcher asks /blobs/<digest> where ngclient names <folder>/<digest>.<file>; every check stays ngclient's own. Prints
JSON: versions, and digest and length of what was downloaded. With the same --dir it goes on from what it trusted before.

`make`: a repository in Leeway's shape, made with python-tuf's own classes and keys: root and targets by 2 of 3, one delegated role for
the line, snapshot, timestamp; three roots, so that there is a chain to walk; and the director's root and one device's assignment. The
plan says what to list. Files go to FOLDER/metadata, FOLDER/targets and FOLDER/director.
"""
import argparse
import datetime
import hashlib
import json
import pathlib
import re

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole, Delegations, Metadata, MetaFile, Root, Snapshot, TargetFile, Targets, Timestamp,
)
from tuf.api.serialization.json import JSONSerializer
from tuf.ngclient import Updater, UpdaterConfig, Urllib3Fetcher


# --- reading ours ---------------------------------------------------------------------------------------------------

class ByDigest(Urllib3Fetcher):
    """Asks for a target by its digest."""

    def __init__(self, url):
        super().__init__()
        self.url, self.asked = url.rstrip("/"), []

    def _fetch(self, url):
        self.asked.append(url)
        hashed = re.search(r"/targets/.*?([0-9a-f]{64})\.[^/]*$", url)
        return super()._fetch(f"{self.url}/blobs/{hashed.group(1)}" if hashed else url)


def read(args):
    folder = pathlib.Path(args.dir)
    metadata, targets = folder / "metadata", folder / "targets"
    for place in (metadata, targets):
        place.mkdir(parents=True, exist_ok=True)
    fetcher, url = ByDigest(args.url), args.url.rstrip("/")
    # Given again at each start: a newer root that was trusted before is preferred by ngclient itself.
    bootstrap = pathlib.Path(args.root).read_bytes()
    updater = Updater(str(metadata), f"{url}/tuf/", str(targets), f"{url}/targets/", fetcher, UpdaterConfig(), bootstrap=bootstrap)
    updater.refresh()
    found = {}
    for path in args.target:
        info = updater.get_targetinfo(path)
        if info is None:
            found[path] = None
            continue
        local = updater.download_target(info, str(targets / hashlib.sha256(path.encode()).hexdigest()))
        data = pathlib.Path(local).read_bytes()
        found[path] = {"sha256": hashlib.sha256(data).hexdigest(), "length": len(data), "custom": info.custom}
    trusted = updater._trusted_set
    versions = {"root": trusted.root.version, "timestamp": trusted.timestamp.version, "snapshot": trusted.snapshot.version,
                "targets": trusted.targets.version}
    print(json.dumps({"versions": versions, "targets": found, "asked": len(fetcher.asked)}))


# --- making one for ours --------------------------------------------------------------------------------------------

def in_days(days):
    return (datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)).replace(microsecond=0)


def signed(content, signers):
    document = Metadata(content)
    for signer in signers:
        document.sign(signer, append=True)
    return document.to_bytes(JSONSerializer(compact=False))


def keys(count):
    return [CryptoSigner.generate_ed25519() for _ in range(count)]


def root(version, roles):
    content = Root(version=version, expires=in_days(365), consistent_snapshot=True)
    for role, (signers, threshold) in roles.items():
        for signer in signers:
            content.add_key(signer.public_key, role)
        content.roles[role].threshold = threshold
    return content


def meta_file(version, data):
    return MetaFile(version, len(data), {"sha256": hashlib.sha256(data).hexdigest()})


def make(args):
    plan, folder = json.loads(pathlib.Path(args.plan).read_text()), pathlib.Path(args.dir)
    metadata, director = folder / "metadata", folder / "director"
    for place in (metadata, director):
        place.mkdir(parents=True)
    people, targets_people, line_keys = keys(3), keys(3), keys(2)
    online = {role: keys(1) for role in ("snapshot", "timestamp")}
    roles = {"root": (people, 2), "targets": (targets_people, 2), "snapshot": (online["snapshot"], 1), "timestamp": (online["timestamp"], 1)}
    (metadata / "1.root.json").write_bytes(signed(root(1, roles), people[:2]))
    # The second root changes the timestamp key, the third one of the people.
    roles["timestamp"] = (keys(1), 1)
    (metadata / "2.root.json").write_bytes(signed(root(2, roles), people[1:]))
    newcomer = keys(1)
    roles["root"] = (people[1:] + newcomer, 2)
    (metadata / "3.root.json").write_bytes(signed(root(3, roles), people[1:] + newcomer))

    line, listed = plan["line"], {}
    for path, target in plan["targets"].items():
        data = pathlib.Path(target["file"]).read_bytes()
        digest = hashlib.sha256(data).hexdigest()
        listed[path] = TargetFile(len(data), {"sha256": digest}, path, {"custom": target["custom"]})
        place = folder / "targets" / pathlib.PurePosixPath(path).parent / f"{digest}.{pathlib.PurePosixPath(path).name}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    role = Targets(version=4, expires=in_days(90), targets=listed)
    delegated = DelegatedRole(line, [], 2, True, [f"models/{line}/release/*"])
    top = Targets(version=2, expires=in_days(90), delegations=Delegations({}, {line: delegated}),
                  unrecognized_fields={"custom": {"lines": {line: plan["policy"]}}})
    for signer in line_keys:
        top.add_key(signer.public_key, line)
    files = {f"{line}.json": (4, signed(role, line_keys)), "targets.json": (2, signed(top, targets_people[1:]))}
    for name, (version, data) in files.items():
        (metadata / f"{version}.{name}").write_bytes(data)
    snapshot = Snapshot(version=7, expires=in_days(7), meta={name: meta_file(*file) for name, file in files.items()})
    data = signed(snapshot, online["snapshot"])
    (metadata / "7.snapshot.json").write_bytes(data)
    timestamp = Timestamp(version=9, expires=in_days(1), snapshot_meta=meta_file(7, data))
    (metadata / "timestamp.json").write_bytes(signed(timestamp, roles["timestamp"][0]))

    chief = keys(1)
    roles = {"root": (people, 2), "targets": (chief, 1), "snapshot": (chief, 1), "timestamp": (chief, 1)}
    (director / "1.root.json").write_bytes(signed(root(1, roles), people[:2]))
    told = plan["assignment"]
    chosen = {told["path"]: TargetFile.from_dict({k: v for k, v in listed[told["path"]].to_dict().items() if k != "custom"}, told["path"])}
    document = Targets(version=told["generation"], expires=in_days(7), targets=chosen, unrecognized_fields={
        "custom": {"v": 1, "device": told["device"], "assignment": told["text"]}})
    (director / "desired.json").write_bytes(signed(document, chief))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    reads = commands.add_parser("read")
    reads.set_defaults(run=read)
    reads.add_argument("--root", required=True)
    reads.add_argument("--url", required=True)
    reads.add_argument("--dir", required=True)
    reads.add_argument("--target", action="append", default=[])
    makes = commands.add_parser("make")
    makes.set_defaults(run=make)
    makes.add_argument("--dir", required=True)
    makes.add_argument("--plan", required=True)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
