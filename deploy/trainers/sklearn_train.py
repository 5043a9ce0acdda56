#!/usr/bin/env python3
"""Trains a scikit-learn model for Leeway and writes it as ONNX.

Run by the trainer worker as `python3 sklearn_train.py JOB_DIR`:

    leeway trainer work --url http://controller:8080 --key rain-auto.key --root 1.root.json \
        --command python3 --arg deploy/trainers/sklearn_train.py

JOB_DIR holds spec.json (features, label, weight, inputs, outputs), train.csv and holdout.csv (and the same rows as Parquet); this
leaves model.onnx, golden.json (outputs of scikit-learn itself, so that a device checks its runtime against the training framework),
metrics.json and run.json (parameters, packages and seed, for whoever asks later how the model was made). Rows weigh by the inverse of
the probability they were captured with, in training and in evaluation. The graph must have the inputs and outputs that the line's trainer was granted: one row of f32 in, the probability
of class 1 out.
"""
import csv
import json
import platform
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper
from skl2onnx import to_onnx
from skl2onnx.common.data_types import FloatTensorType
from sklearn.ensemble import GradientBoostingClassifier

OPSET = 13
PACKAGES = ["scikit-learn", "skl2onnx", "onnx", "numpy"]
GOLDEN = 8


def table(path, spec):
    """Features, labels and weights of the complete rows."""
    features, labels, weights = [], [], []
    with open(path, newline="") as file:
        for row in csv.DictReader(file):
            values = [row[name] for name in spec["features"]] + [row[spec["label"]]]
            if "" in values:
                continue
            features.append([float(v) for v in values[:-1]])
            labels.append(int(float(values[-1]) >= 0.5))
            weights.append(float(row[spec["weight"]]) if spec.get("weight") else 1.0)
    return np.array(features, dtype=np.float32), np.array(labels), np.array(weights)


def only_the_probability_of_class_1(model, spec):
    """Cut the classifier's graph down to the one output the line has: label and class-0 probability are dropped."""
    graph = model.graph
    x, y = spec["inputs"][0], spec["outputs"][0]
    probabilities = graph.output[1].name
    graph.initializer.append(helper.make_tensor("class_1", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Gather", [probabilities, "class_1"], [y["name"]], axis=1))
    del graph.output[:]
    graph.output.append(helper.make_tensor_value_info(y["name"], TensorProto.FLOAT, y["shape"]))
    for node in graph.node:
        node.input[:] = [x["name"] if name == graph.input[0].name else name for name in node.input]
    graph.input[0].name = x["name"]
    return model


def main():
    job = Path(sys.argv[1])
    spec = json.loads((job / "spec.json").read_text())
    features, labels, weights = table(job / "train.csv", spec)
    held, truth, worth = table(job / "holdout.csv", spec)
    model = GradientBoostingClassifier(n_estimators=80, max_depth=3, random_state=0)
    model.fit(features, labels, sample_weight=weights)
    shape = FloatTensorType(spec["inputs"][0]["shape"])
    onnx = to_onnx(model, initial_types=[("x", shape)], target_opset={"": OPSET, "ai.onnx.ml": 2}, options={"zipmap": False})
    onnx = only_the_probability_of_class_1(onnx, spec)
    (job / "model.onnx").write_bytes(onnx.SerializeToString())
    chosen = held[:: max(1, len(held) // GOLDEN)][:GOLDEN]
    golden = {"inputs": chosen.tolist(), "outputs": model.predict_proba(chosen)[:, 1:].tolist()}
    (job / "golden.json").write_text(json.dumps(golden))
    metrics = {
        "train_accuracy": model.score(features, labels, sample_weight=weights),
        "sklearn_holdout_accuracy": model.score(held, truth, sample_weight=worth),
    }
    (job / "metrics.json").write_text(json.dumps(metrics))
    run = {
        "parameters": {"estimator": type(model).__name__, "opset": OPSET, **model.get_params()},
        "environment": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
        "seed": model.random_state,
    }
    (job / "run.json").write_text(json.dumps(run))
    print(metrics)


if __name__ == "__main__":
    main()
