"""What river's ADWIN and Page-Hinkley say about seeded streams of right and wrong, as a table for `quality::classic`'s test.

    pip install river==0.26.1
    python3 tests/interop/river_detectors.py > tests/interop/river.tsv

A stream is segments of `rows:errors per mille`, drawn by a linear congruential generator that the test repeats, so the table
holds no rows. Columns: name, seed, segments, rows (from 0) at which ADWIN cut, its window after each cut, rows at which
Page-Hinkley (mode up) raised its alarm. All parameters are river's defaults.
"""
from river import __version__, drift

STREAMS = [
    ("nothing", 1, "10000:100"),
    ("nothing, rare errors", 2, "10000:20"),
    ("nothing, an even chance", 3, "10000:500"),
    ("a little", 4, "3000:100,7000:150"),
    ("twice", 5, "3000:100,4000:200"),
    ("thrice", 6, "3000:100,2000:300"),
    ("thrice, early", 7, "200:100,2000:300"),
    ("at once wrong", 8, "500:0,500:1000"),
    ("never right again", 9, "64:100,3000:900"),
    ("there and back", 10, "2000:100,1000:400,3000:100"),
    ("better", 11, "3000:300,3000:100"),
    ("slowly", 12, "1000:100,1000:130,1000:160,1000:190,1000:220,1000:250,1000:280"),
    ("again and again", 13, "1000:50,1000:350,1000:50,1000:350,1000:50,1000:350"),
    ("long", 14, "40000:100,2000:200"),
]


def rows(seed, segments):
    state = seed
    for segment in segments.split(","):
        count, per_mille = map(int, segment.split(":"))
        for _ in range(count):
            state = (state * 6364136223846793005 + 1442695040888963407) % (1 << 64)
            yield int((state >> 33) % 1000 < per_mille)


print(f"# river {__version__.__version__ if hasattr(__version__, '__version__') else __version__}, made by tests/interop/river_detectors.py")
for name, seed, segments in STREAMS:
    adwin, page = drift.ADWIN(), drift.PageHinkley(mode="up")
    cuts, widths, alarms = [], [], []
    for i, wrong in enumerate(rows(seed, segments)):
        adwin.update(wrong)
        if adwin.drift_detected:
            cuts.append(i)
            widths.append(int(adwin.width))
        page.update(wrong)
        if page.drift_detected:
            alarms.append(i)
    print(name, seed, segments, *(",".join(map(str, column)) for column in (cuts, widths, alarms)), sep="\t")
