#!/usr/bin/env python3
"""Holds a dataset's Parquet file to its CSV, value for value, as pandas (pyarrow) and DuckDB read it.

    pip install -r requirements-data.txt
    python datasets.py DATASET.parquet DATASET.csv

The CSV is read with Python's own csv module. Floats must be the same bits, times the same millisecond, numbers of requests the same
64 unsigned bits. The last line is one JSON object: rows, features, and the types as each reader calls them; the status is 1, with the
place named, if anything differs.
"""
import csv
import datetime
import json
import struct
import sys

import duckdb
import pandas
import pyarrow.parquet

EXTRA = ["label", "weight", "at", "device", "cohort", "inclusion", "request", "served_by"]
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def single(value):
    """The bits of a value as a 32-bit float."""
    return struct.pack("<f", float(value))


def double(value):
    return struct.pack("<d", float(value))


def millis(value):
    """Milliseconds since 1970 of a text or of what a reader made of it."""
    if isinstance(value, int):
        return value
    if isinstance(value, str):
        value = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
    if isinstance(value, pandas.Timestamp):
        value = value.to_pydatetime()
    if value.tzinfo is None:
        raise SystemExit(f"{value!r} has lost its time zone")
    return (value - EPOCH) // datetime.timedelta(milliseconds=1)


def forms(names):
    """How each column's values are compared."""
    special = {"weight": double, "at": millis, "device": str, "cohort": str, "request": int, "served_by": str}
    return {name: special.get(name, single) for name in names}


def same(reader, expected, rows):
    """`rows` are dictionaries, one per row, of what `reader` made of the file."""
    count = 0
    for count, (want, got) in enumerate(zip(expected, rows, strict=True), 1):
        for name, form in forms(want).items():
            if form(want[name]) != form(got[name]):
                raise SystemExit(f"{reader}, row {count}, {name}: {got[name]!r} is not {want[name]!r}")
    return count


def main():
    parquet, text = sys.argv[1:3]
    with open(text, newline="") as file:
        expected = list(csv.DictReader(file))
    names = list(expected[0])
    if names[-len(EXTRA):] != EXTRA:
        raise SystemExit(f"the columns are {names}")

    frame = pandas.read_parquet(parquet)
    if list(frame.columns) != names:
        raise SystemExit(f"pandas has the columns {list(frame.columns)}")
    rows = same("pandas", expected, frame.to_dict("records"))

    # DuckDB's moments as Python's need one more package; its own arithmetic on them does not. ("at" is one of its keywords.)
    connection = duckdb.connect()
    answer = connection.execute('SELECT * REPLACE (epoch_ms("at") AS "at") FROM read_parquet(?)', [parquet])
    columns = [column[0] for column in answer.description]
    same("DuckDB", expected, (dict(zip(columns, row)) for row in answer.fetchall()))

    told = connection.execute("SELECT count(*), sum(weight), count(DISTINCT device) FROM read_parquet(?)", [parquet]).fetchone()
    described = connection.execute("DESCRIBE SELECT * FROM read_parquet(?)", [parquet]).fetchall()
    meta = pyarrow.parquet.ParquetFile(parquet).metadata
    print(json.dumps({
        "rows": rows, "features": names[:-len(EXTRA)], "row_groups": meta.num_row_groups, "created_by": meta.created_by,
        "compression": meta.row_group(0).column(0).compression, "counted": told[0], "weight": told[1], "devices": told[2],
        "pandas": {name: str(kind) for name, kind in frame.dtypes.items()}, "duckdb": {row[0]: row[1] for row in described},
    }))


if __name__ == "__main__":
    main()
