#!/usr/bin/env python3
"""Drift alarms beside Evidently, whylogs and river: the same raw values, the same machine, in one run.

    cargo build --release -p leeway-controller --example bench_drift
    pip install -r tests/interop/requirements-drift.txt
    python tests/interop/bench_drift.py --bench target/release/examples/bench_drift

Hourly windows of 100 rows of 20 features on two devices: five days in which nothing happens (values depend on each other, days have a
season, devices differ), then two in which every feature is half a standard deviation higher. Each tool judges each window of each device
against the same training set, with its defaults, as its documentation shows. An alarm in a quiet window is a false one. A tool that
fires all the time also "finds" everything at once, so read both columns.
"""
import argparse
import json
import statistics
import subprocess
import tempfile
import pathlib
import time
import warnings

import numpy as np
import pandas as pd

warnings.filterwarnings("ignore")


class Tool:
    """What one tool said."""

    def __init__(self, name, quiet):
        self.name, self.quiet_windows = name, quiet
        self.alarms = self.judged = self.seen = 0
        self.first, self.seconds = {}, 0.0

    def fired(self, window, stream, fires):
        self.seen += 1
        if window < self.quiet_windows:
            self.judged += 1
            self.alarms += bool(fires)
        elif fires:
            self.first.setdefault(stream, window - self.quiet_windows + 1)

    def result(self, streams):
        return {"name": self.name, "alarms": self.alarms, "quiet": self.judged, "found": list(self.first.values()),
                "streams": streams, "seconds": self.seconds, "windows": self.seen}


def evidently(training, windows, meta):
    from evidently import Report
    from evidently.presets import DataDriftPreset

    tool = Tool("Evidently 0.7.23, DataDriftPreset", meta["quiet"])
    for window, device, frame in frames(windows, meta):
        started = time.process_time()
        told = Report([DataDriftPreset()]).run(frame, training).dict()
        tool.seconds += time.process_time() - started
        for metric in told["metrics"]:
            config = metric["config"]
            if "column" in config:
                value, threshold = float(metric["value"]), config["threshold"]
                is_p_value = "p_value" in config["method"]
                tool.fired(window, (device, config["column"]), value < threshold if is_p_value else value >= threshold)
    return tool


def whylogs(training, windows, meta):
    import whylogs as why
    from whylogs.viz.drift.column_drift_algorithms import calculate_drift_scores

    tool = Tool("whylogs 1.6.4, drift scores", meta["quiet"])
    reference = why.log(training).view()
    for window, device, frame in frames(windows, meta):
        started = time.process_time()
        scores = calculate_drift_scores(target_view=why.log(frame).view(), reference_view=reference, with_thresholds=True)
        tool.seconds += time.process_time() - started
        for column, score in scores.items():
            tool.fired(window, (device, column), score is not None and score["drift_category"] == "DRIFT")
    return tool


def river(training, windows, meta):
    from river import drift

    tools = []
    for name, make in (("river 0.26.1, ADWIN on values", drift.ADWIN), ("river 0.26.1, Page-Hinkley on values", drift.PageHinkley)):
        tool = Tool(name, meta["quiet"])
        spread = training.std().to_numpy()
        detectors = {(d, f): make() for d in range(meta["devices"]) for f in range(meta["features"])}
        for window, device, values in arrays(windows, meta):
            started = time.process_time()
            for feature in range(meta["features"]):
                detector, fires = detectors[device, feature], False
                # Page-Hinkley depends on the scale: standard deviations of the training set.
                for value in values[feature] / spread[feature]:
                    if value == value:
                        detector.update(value)
                        fires |= detector.drift_detected
                tool.fired(window, (device, feature), fires)
            tool.seconds += time.process_time() - started
        tools.append(tool)
    return tools


def arrays(windows, meta):
    for window in range(meta["windows"]):
        for device in range(meta["devices"]):
            yield window, device, windows[window, device]


def frames(windows, meta):
    for window, device, values in arrays(windows, meta):
        yield window, device, pd.DataFrame(values.T, columns=names(meta))


def names(meta):
    return [f"f{i}" for i in range(meta["features"])]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", required=True, help="the built example bench_drift")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = json.loads(subprocess.run([options.bench, "--values", folder], check=True, capture_output=True, text=True).stdout)
        folder = pathlib.Path(folder)
        meta = json.loads((folder / "meta.json").read_text())
        training = np.fromfile(folder / "training.f64").reshape(meta["features"], meta["training_rows"])
        shape = (meta["windows"], meta["devices"], meta["features"], meta["rows"])
        windows = np.fromfile(folder / "windows.f64").reshape(shape)
    training = pd.DataFrame(training.T, columns=names(meta))
    streams = meta["devices"] * meta["features"]
    tools = [evidently(training, windows, meta), whylogs(training, windows, meta), *river(training, windows, meta)]
    print("| | false alarms in quiet windows | found, median windows | seconds for a million device-feature windows |")
    print("|---|---|---|---|")
    for row in [ours, *(tool.result(streams) for tool in tools)]:
        found = f"{len(row['found'])} of {row['streams']}, {statistics.median(row['found']):.0f}" if row["found"] else f"0 of {row['streams']}"
        share = 100 * row["alarms"] / row["quiet"]
        print(f"| {row['name']} | {row['alarms']} of {row['quiet']} ({share:.2f} %) | {found} | {row['seconds'] / row['windows'] * 1e6:,.0f} |")


if __name__ == "__main__":
    main()
