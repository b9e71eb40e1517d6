"""Plan a build of made recordings, and print memory, seconds, and what the tasks and the manifest take.

    python tools/simulate_plan.py 1000000 10000000

No file is made or read: the recordings have names like those of a large corpus, labels and speakers. What is measured
is the work of the one process that lists, labels, plans and hands out tasks.
"""

import argparse
import pickle
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

from ser_batch.audio.frontends import SPEECH
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.splits import SplitPlan
from ser_batch.corpus.table import Listing, Recording, make_table
from ser_batch.records.plan import BuildOptions, plan_build

_LABELS = ("anger", "boredom", "disgust", "fear", "happiness", "neutral", "sadness")
_PER_SPEAKER = 1000
_TASKS = 1000


def made(number: int) -> Iterator[Recording]:
    """Recordings of speakers with 1,000 each."""
    for place in range(number):
        file = f"speaker-{place // _PER_SPEAKER:06d}/session-{place // 100 % 10}/{place:09d}.wav"
        yield Recording(file, f"/corpus/{file}", _LABELS[place % 7], f"speaker-{place // _PER_SPEAKER:06d}")


def simulate(number: int) -> None:
    """Plan, and print one row."""
    marks = [time.perf_counter()]
    listing = Listing(make_table(made(number)), has_columns=frozenset({"label", "speaker"}))
    marks.append(time.perf_counter())
    labelled = label_recordings(listing)
    del listing
    plan = plan_build(labelled, BuildOptions(SPEECH, SplitPlan()))
    marks.append(time.perf_counter())
    shards = plan.shards[:: max(len(plan.shards) // _TASKS, 1)]
    sizes = [len(pickle.dumps(plan.task(shard, Path("records")))) for shard in shards]
    marks.append(time.perf_counter())
    listed, planned, handed = (after - before for before, after in pairwise(marks))
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tasks_secs = handed / len(shards) * len(plan.shards)
    print(
        f"| {number:,} | {listed:.0f} | {planned:.0f} | {len(plan.shards):,} | {max(sizes) / 1024:.0f} | "
        f"{tasks_secs:.0f} | {peak_mb:,.0f} |",
        flush=True,
    )


def main() -> None:
    """Simulate each number in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="+", type=int)
    parser.add_argument("--row", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.row:
        simulate(options.numbers[0])
        return
    print("| recordings | list, s | label and plan, s | shards | largest task, KiB | all tasks, s | peak memory, MB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for number in options.numbers:
        subprocess.run([sys.executable, __file__, "--row", str(number)], check=True)


if __name__ == "__main__":
    main()
