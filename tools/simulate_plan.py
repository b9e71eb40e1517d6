"""Plan a build of made recordings, and print memory, seconds, and what the tasks and the manifest take.

    python tools/simulate_plan.py 1000000 10000000

No audio is made or read: the recordings have names like those of a large corpus, labels and speakers. What is measured
is the work of the one process that lists, labels, plans, hands out tasks, and writes the metadata at the end. Tasks and
parts of the manifest are measured for 1,000 shards at most, and their times multiplied.

"Private memory" is what the process needs; the table of recordings is in mapped temporary files, whose pages the
system can take back.
"""

import argparse
import dataclasses
import pickle
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from ser_batch.audio.frontends import SPEECH
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.splits import SplitPlan
from ser_batch.corpus.table import Listing, Recording, make_table
from ser_batch.records.build import planned_files, write_files, write_metadata
from ser_batch.records.manifest import MANIFEST, part_path, write_part
from ser_batch.records.plan import BuildOptions, BuildPlan, PlannedShard, plan_build

_LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
_PER_SPEAKER = 1000
_TASKS = 1000


def made(number: int) -> Iterator[Recording]:
    """Recordings of speakers with 1,000 each."""
    for place in range(number):
        file = f"speaker-{place // _PER_SPEAKER:06d}/session-{place // 100 % 10}/{place:09d}.wav"
        yield Recording(file, f"/corpus/{file}", _LABELS[place % 7], f"speaker-{place // _PER_SPEAKER:06d}")


@contextmanager
def peak_mb() -> Iterator[dict[str, float]]:
    """The most private and mapped memory in the block, by Linux' names, in MB; measured every 50 ms."""
    peaks: dict[str, float] = {}
    is_over = threading.Event()

    def measure() -> None:
        while not is_over.wait(0.05):
            found = re.findall(r"(RssAnon|RssFile):\s+(\d+) kB", Path("/proc/self/status").read_text())
            peaks.update({name: max(int(kib) / 1024, peaks.get(name, 0.0)) for name, kib in found})

    thread = threading.Thread(target=measure)
    thread.start()
    yield peaks
    is_over.set()
    thread.join()


def rows_of(plan: BuildPlan, shard: PlannedShard) -> Iterator[dict[str, Any]]:
    """The rows of a shard's part of the manifest, as a worker writes them."""
    for index, (number, one) in enumerate(plan.task(shard, Path()).numbered()):
        yield {
            "file": one.file,
            "start": 0.0,
            "end": 2.75,
            "label": one.label,
            "speaker": one.speaker,
            "split": shard.split,
            "shard": shard.name,
            "index": index,
            "duration": 2.75,
            "sha256": f"{number * 0x9E3779B97F4A7C15 % (1 << 64):016x}" * 4,
            "recording": number,
            "window": 0,
            "warnings": "",
        }


def simulate(number: int) -> None:
    """Plan, and print one row."""
    marks = [time.perf_counter()]
    with peak_mb() as peaks, tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        listing = Listing(make_table(made(number)), has_columns=frozenset({"label", "speaker"}))
        marks.append(time.perf_counter())
        labelled = label_recordings(listing)
        del listing
        plan = plan_build(labelled, BuildOptions(SPEECH, SplitPlan()))
        del labelled
        write_files(folder / "files.parquet", planned_files(plan))
        marks.append(time.perf_counter())
        shards = plan.shards[:: max(len(plan.shards) // _TASKS, 1)]
        sizes = [len(pickle.dumps(plan.task(shard, folder))) for shard in shards]
        marks.append(time.perf_counter())
        (folder / MANIFEST).mkdir()
        for shard in shards:
            facts = {"shard_bytes": "1", "shard_sha256": "0" * 64}
            write_part(part_path(folder, shard.name), rows_of(plan, shard), facts)
        sampled = dataclasses.replace(plan, shards=shards)
        marks.append(time.perf_counter())
        write_metadata(sampled, folder)
        marks.append(time.perf_counter())
        manifest_bytes = sum(part_path(folder, shard.name).stat().st_size for shard in shards)
    listed, planned, handed, _, finished = (after - before for before, after in pairwise(marks))
    factor = len(plan.shards) / len(shards)
    figures = [listed, planned, len(plan.shards), max(sizes) / 1024, handed * factor, finished * factor]
    figures += [manifest_bytes * factor / 1e6, peaks["RssAnon"], peaks["RssFile"]]
    print("|", " | ".join(f"{figure:,.0f}" for figure in [number, *figures]), "|", flush=True)


def main() -> None:
    """Simulate each number in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="+", type=int)
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        simulate(options.numbers[0])
        return
    times = ["list, s", "label and plan, s", "shards", "largest task, KiB", "all tasks, s", "metadata, s"]
    names = ["recordings", *times, "manifest, MB", "private memory, MB", "mapped files, MB"]
    print("|", " | ".join(names), "|")
    print("|", " | ".join("---:" for _ in names), "|", flush=True)
    for number in options.numbers:
        subprocess.run([sys.executable, __file__, "--row", str(number)], check=True)


if __name__ == "__main__":
    main()
