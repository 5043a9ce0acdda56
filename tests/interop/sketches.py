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

RANKS = [0.05, 0.25, 0.5, 0.75, 0.95]


def told(sketch):
    """Least, quantiles and greatest; at the ends the library's own quantile is of what was retained, not of what was seen."""
    if sketch.is_empty():
        return []
    inner = [float(sketch.get_quantile(rank, True)) for rank in RANKS]
    return [float(sketch.get_min_value()), *inner, float(sketch.get_max_value())]


def main(what, where):
    path = pathlib.Path(where)
    if what == "write":
        sketch = kll_floats_sketch(200)
        sketch.update(np.arange(10_000, dtype=np.float32))
        path.write_bytes(sketch.serialize())
        print(json.dumps({"n": sketch.n, "quantiles": told(sketch)}))
        return
    out, merged = {}, kll_floats_sketch(200)
    for entry in json.loads((path / "index.json").read_text()):
        data = (path / entry["file"]).read_bytes()
        assert "sha256:" + hashlib.sha256(data).hexdigest() == entry["digest"], entry
        sketch = kll_floats_sketch.deserialize(data)
        merged.merge(sketch)
        out[entry["name"]] = {"n": sketch.n, "quantiles": told(sketch)}
    print(json.dumps(out if what == "read" else {"n": merged.n}))


if __name__ == "__main__":
    main(*sys.argv[1:])
