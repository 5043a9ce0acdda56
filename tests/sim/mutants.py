#!/usr/bin/env python3
"""Prove that the tests see: take one safeguard out at a time, and the simulation, or the tests beside it, must turn red.

Works on a scratch copy of the worktree, never in place. Each mutant is one line. Usage:

    tests/sim/mutants.py [--only NAME] [--seeds N] [--keep]

CARGO_TARGET_DIR is the worktree's own target directory unless set, so that dependencies are not built again.
Ends with status 0 only if every mutant was caught and the unchanged copy is green.
"""
import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
DEVICES = ["-p", "leeway-firmware-sim", "--lib", "storms"]
FLEET = ["-p", "leeway-tests", "--test", "sim", "rollouts"]
# What one safeguard of many does is told by the tests beside it; the simulation has no keys of its own to lose one by one.
TRUST = ["-p", "leeway-protocol", "--lib", "trust"]
AGENT = ["-p", "leeway-agent", "--lib"]

PERSIST = "agent/src/agent/persist.rs"
DIRECTOR = "protocol/src/trust/director.rs"
SCENE = "controller/src/planner/advance/scene.rs"

# name, what is taken out, [(file, line as it is, line as it becomes)], which tests must see it.
# Where a safeguard is kept twice (defence in depth), both lines go: one alone is caught by the other and changes nothing.
MUTANTS = [
    ("fsync-file", "fsync of a new copy before it is renamed over the old one", [
        (PERSIST, "        self.disk(DiskOp::Sync { path: new.clone() });\n", "")], DEVICES),
    ("fsync-directory", "fsync of the directory after the rename", [
        (PERSIST, "        self.disk(DiskOp::SyncDir { dir });\n", "        let _ = dir;\n")], DEVICES),
    ("fsync-blob-name", "fsync of the directory a downloaded blob is moved to", [
        (PERSIST, "        self.disk(DiskOp::SyncDir { dir: Dir::Blobs });\n", "")], DEVICES),
    ("generation", "both checks that an assignment is not older than the last one", [
        (DIRECTOR, "    if generation < last {", "    if false {"),
        ("agent/src/agent/follow.rs", "        if generation > self.state.generation {", "        if generation != self.state.generation {")], DEVICES),
    ("metadata-version", "the check that metadata does not go back to an older version", [
        ("protocol/src/trust/tuf/judge.rs", "    if got < have {", "    if false && got < have {")], DEVICES),
    ("threshold", "the check that enough keys signed", [
        ("protocol/src/trust/metadata/signed.rs", "        if have < keys.threshold {", "        if false && have < keys.threshold {")], DEVICES),
    ("device-binding", "the check that an assignment is meant for this device", [
        (DIRECTOR, "    if custom.device != *device {", "    if false {")], TRUST),
    ("floor", "the check that a release is not below the signed floor", [
        (DIRECTOR, "    if release.seq < floor {", "    if false {")], TRUST),
    ("revocation", "the check of a release against the revoked ones at installation", [
        (DIRECTOR, "    if policy.is_revoked(&listed.sha256) || policy.is_revoked(&release.manifest.digest) {", "    if false {")], DEVICES),
    ("boot-id", "raising the number of starts", [
        ("agent/src/agent/start.rs", "self.state.boot.0.saturating_add(1)", "self.state.boot.0.saturating_add(0)")], DEVICES),
    ("failed-release", "the memory of what failed under an assignment", [
        ("agent/src/agent/state.rs", "self.failed.iter().any(|failed| failed.manifest == *manifest && failed.generation == self.generation)",
         "{ let _ = manifest; false }")], DEVICES),
    ("starts-on-trial", "counting down the starts that a release on trial has", [
        ("agent/src/agent/start.rs", "                trial.boots_left -= 1;\n", ""),
        ("agent/src/agent/serve.rs", "            trial.boots_left -= 1;\n", "")], DEVICES),
    ("distinct-keys", "counting a key once, under whatever names", [
        ("protocol/src/trust/metadata/signed.rs", "                signers.insert(*key);", "                signers.insert((*key, id));"),
        ("protocol/src/trust/metadata/signed.rs", "                && !signers.contains(key)\n", "")], TRUST),
    ("old-root", "the check that the previous root's keys signed the next root", [
        ("protocol/src/trust/tuf/chain.rs",
         "        new.verify(&self.root().keys_of(\"root\")).map_err(|cause| TufError::Unsigned { file, cause })?;\n", "")], TRUST),
    ("new-root", "the check that a root is signed by its own keys", [
        ("protocol/src/trust/tuf/chain.rs",
         "    root.verify(&root.claims().keys_of(\"root\")).map_err(|cause| TufError::Unsigned { file: file.to_owned(), cause })?;\n", "")], TRUST),
    ("expiry", "the check that metadata has not expired", [
        ("protocol/src/trust/tuf/judge.rs", "        if header.expires.is_over(self.now) {", "        if false && header.expires.is_over(self.now) {")], TRUST),
    ("model-digest", "the check of the model's bytes when it is loaded", [
        ("agent/src/runtime/recipe.rs", "    if scanned.digest != manifest.model.digest {", "    if false && scanned.digest != manifest.model.digest {")], AGENT),
    ("stage-cap", "the cap of a stage on devices that may have the version", [
        (SCENE, "        let allowed = quota(self.stage.share, members);", "        let allowed = quota(1.0, members);")], FLEET),
    ("rate-per-minute", "the limit of devices told per minute", [
        (SCENE, "        let by_rate = (policy.max_per_minute as usize).saturating_sub(self.recent);", "        let by_rate = 1000usize;")], FLEET),
    ("exactly-once", "the memory of which uplinks were taken in", [
        ("controller/src/ingest/ledger.rs", "        if !self.desk.note(message) {", "        if { self.desk.note(message); false } {")], FLEET),
]


def copy_to(scratch):
    """The worktree as it is, without what is built."""
    keep_out = shutil.ignore_patterns("target", ".git", "*.log")
    shutil.copytree(ROOT, scratch, ignore=keep_out, dirs_exist_ok=True)
    # What an earlier run changed was built later than these files were last written: without this, cargo would keep the mutant.
    for _, _, edits, _ in MUTANTS:
        for file, _, _ in edits:
            (scratch / file).touch()


def run(scratch, tests, seeds):
    env = dict(os.environ, LEEWAY_SEED="0", LEEWAY_SEEDS=str(seeds))
    env.setdefault("CARGO_TARGET_DIR", str(ROOT / "target"))
    began = time.time()
    command = ["cargo", "test", "--release", "--quiet", *tests]
    done = subprocess.run(command, cwd=scratch, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout, time.time() - began


def verdict(code, output):
    if "could not compile" in output:
        return "DOES NOT COMPILE", output.strip().splitlines()[-1]
    if code == 0:
        return "SURVIVED", ""
    told = re.search(r"^(seed \d+: .*|.*: broken by \d+ of \d+ seeds.*)$", output, re.M)
    return "caught", told.group(1)[:150] if told else output.strip().splitlines()[-1][:150]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="run this mutant alone")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--keep", action="store_true", help="leave the scratch copy")
    args = parser.parse_args()
    mutants = [m for m in MUTANTS if args.only in (None, m[0])]
    # Always the same place, so that a second run builds little.
    scratch = pathlib.Path(tempfile.gettempdir()) / "leeway-mutants"
    shutil.rmtree(scratch, ignore_errors=True)
    copy_to(scratch)
    rows, bad = [], 0
    for tests in [t for t in (TRUST, AGENT, DEVICES, FLEET) if any(m[3] is t for m in mutants)]:
        seeds = args.seeds if tests is DEVICES else min(args.seeds, 60)
        code, output, seconds = run(scratch, tests, seeds)
        word, detail = ("green", "") if code == 0 else ("RED WITHOUT A MUTANT", verdict(code, output)[1])
        bad += code != 0
        rows.append(("(none)", "nothing", word, seconds, detail))
        print(rows[-1], flush=True)
        for name, what, edits, _ in [m for m in mutants if m[3] is tests]:
            before = {file: (scratch / file).read_text() for file, _, _ in edits}
            missing = [file for file, old, _ in edits if before[file].count(old) != 1]
            if missing:
                rows.append((name, what, "LINE NOT FOUND ONCE", 0.0, ", ".join(missing)))
                bad += 1
                print(rows[-1], flush=True)
                continue
            for file, old, new in edits:
                (scratch / file).write_text((scratch / file).read_text().replace(old, new))
            code, output, seconds = run(scratch, tests, seeds)
            for file, text in before.items():
                (scratch / file).write_text(text)
            word, detail = verdict(code, output)
            bad += word != "caught"
            rows.append((name, what, word, seconds, detail))
            print(rows[-1], flush=True)
    print("\n| mutant | taken out | tests | seconds | what they said |\n|---|---|---|---|---|")
    for name, what, word, seconds, detail in rows:
        print(f"| {name} | {what} | {word} | {seconds:.0f} | {detail} |")
    # The target directory is shared, and cargo tells sources apart by their place in the workspace and their age: what was built
    # last here is a mutant, so the worktree's own files must be newer.
    for file in {file for _, _, edits, _ in MUTANTS for file, _, _ in edits}:
        (ROOT / file).touch()
    if not args.keep:
        shutil.rmtree(scratch, ignore_errors=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
