"""PyPI datasketches on the other side of `leeway model sketch`.

usage: python sketches.py read DIR    reads every sketch that DIR/index.json lists, and says what it finds
       python sketches.py write FILE  writes a sketch of 0..9999 and says its quantiles
       python sketches.py merge DIR   merges every sketch of DIR into one and says its n
"""

import hashlib
import json
import pathlib
import sys

import numpy as np
from datasketches import kll_floats_sketch

RANKS = [0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0]


def main(what, where):
    path = pathlib.Path(where)
    if what == "write":
        sketch = kll_floats_sketch(200)
        sketch.update(np.arange(10_000, dtype=np.float32))
        path.write_bytes(sketch.serialize())
        print(json.dumps({"n": sketch.n, "quantiles": [float(sketch.get_quantile(r, True)) for r in RANKS]}))
        return
    out, merged = {}, kll_floats_sketch(200)
    for entry in json.loads((path / "index.json").read_text()):
        data = (path / entry["file"]).read_bytes()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == entry["digest"], entry
        sketch = kll_floats_sketch.deserialize(data)
        merged.merge(sketch)
        quantiles = [] if sketch.is_empty() else [float(sketch.get_quantile(r, True)) for r in RANKS]
        out[entry["name"]] = {"n": sketch.n, "quantiles": quantiles}
    print(json.dumps(out if what == "read" else {"n": merged.n}))


if __name__ == "__main__":
    main(*sys.argv[1:])
