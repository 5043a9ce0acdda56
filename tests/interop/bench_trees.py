#!/usr/bin/env python3
"""How fast trees are, beside onnxruntime: the same forests, the same machine, in one run.

    cargo build --release -p leeway-agent --example bench_child
    pip install -r tests/interop/requirements.txt scikit-learn skl2onnx
    python tests/interop/bench_trees.py --bench target/release/examples/bench_child

One row at a time, one thread. onnxruntime's time is that of `InferenceSession.run` from Python, some microseconds of which are
Python's own; the engine's time is that of the bare plan, `process` adds checks and recording, `child` the way to the child.
"""
import argparse
import json
import pathlib
import subprocess
import sys
import tempfile
import time
import importlib.util

# The neighbour is named after what it compares with.
spec = importlib.util.spec_from_file_location("cases", pathlib.Path(__file__).with_name("onnxruntime.py"))
cases = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cases)

import numpy as np
from skl2onnx import to_onnx
from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier

FEATURES, BATCHES, PER_BATCH = 20, 100, 40


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the built example bench_child")
    options = parser.parse_args()
    rng = np.random.default_rng(7)
    x = rng.uniform(-1, 1, (4000, FEATURES)).astype(np.float32)
    two = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64)
    models = {
        "forest-100x10": (RandomForestClassifier(100, max_depth=10, random_state=1), two),
        "boosting-100x3": (GradientBoostingClassifier(n_estimators=100, random_state=1), two),
        "boosting-r-300x4": (GradientBoostingRegressor(n_estimators=300, max_depth=4, random_state=1), x[:, 0] * 2 + np.sin(x[:, 1])),
    }
    print(f"{'model':>18} {'onnxruntime us':>15} {'engine us':>10} {'ratio':>6} {'process us':>11} {'child us':>9}")
    with tempfile.TemporaryDirectory() as place:
        place = pathlib.Path(place)
        for name, (model, target) in models.items():
            model.fit(x, target)
            settings = {"zipmap": False} if hasattr(model, "predict_proba") else None
            exported = to_onnx(model, x[:1], options=settings, target_opset={"": 17, "ai.onnx.ml": 3})
            made = cases.case(cases.saved(place, name, exported), ["X"], [o.name for o in exported.graph.output], rows=x[:4])
            reference = cases.Reference(made["model"], {}, {})
            (place / "manifest.json").write_text(json.dumps(cases.manifest(made, reference)))
            session, times = reference.session, []
            for _ in range(BATCHES):
                for i in range(PER_BATCH):
                    row = {"X": x[i % 64][None, :]}
                    began = time.perf_counter_ns()
                    session.run(None, row)
                    times.append(time.perf_counter_ns() - began)
            said = subprocess.run([options.bench, made["model"], place / "manifest.json"], check=True, capture_output=True, text=True).stdout
            engine, process, _, child = (float(figure) for figure in said.splitlines()[-1].split()[-6:-2])
            theirs = float(np.median(times)) / 1e3
            print(f"{name:>18} {theirs:>15.1f} {engine:>10.1f} {engine / theirs:>6.2f} {process:>11.1f} {child:>9.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
