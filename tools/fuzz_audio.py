"""Damage recordings in many ways, build record folders from them, and count the results.

    python tools/fuzz_audio.py path/to/wav --mutations 10000 --seed 0
    python tools/fuzz_audio.py path/to/wav --truth 2000 --seed 0

The WAVs are written in every format that libsndfile and FFmpeg write here, and damaged: cut, bits flipped, headers
overwritten, pieces of other formats put in. Every mutant has to end as examples or as one error, without ending its
worker. Exit code 1 if one does not; --keep saves those. A mutant depends on its number, the seed and the
WAVs alone. With --truth, files of known length are written instead, whole, piped, joined, cut or with a wrong header
(`audio_truth.py`); exit code 1 if one is read with another length and without a warning or an error.
"""

import argparse
import itertools
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ser_batch.audio.frontends import PRESETS, FrontEnd
from ser_batch.corpus.labels import label_recordings
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.splits import SplitPlan
from ser_batch.corpus.table import Recording, recordings
from ser_batch.errors import OutputError
from ser_batch.records.build import build_records
from ser_batch.records.folder import RecordFolder
from ser_batch.records.plan import BuildOptions, plan_build
from ser_batch.records.shards import probe
from ser_batch.records.verification.verify import verify_records
from ser_batch.runtime.engine import Engine, Outcome
from ser_batch.runtime.local import LocalEngine

MUTANTS_PER_BUILD = 500
INTACT = "intact/intact.wav"

# A worker has 60 to 110; FFmpeg makes an index as long as a damaged header says, and 300 were seen.
MOST_WORKER_MB = 600

_FRONT_ENDS = tuple(PRESETS.values())
_MANY_SUBTYPES = ("WAV", "WAVEX", "W64", "RF64", "AIFF", "AU", "CAF", "FLAC", "OGG", "MP3")
_ONE_SUBTYPE = ("AVR", "HTK", "IRCAM", "MAT4", "MAT5", "MPC2K", "NIST", "PAF", "PVF", "SDS", "SVX", "VOC", "WVE", "XI")
_EXTENSIONS = ("wav", "wav", "mp3", "m4a", "ogg", "flac", "mp4", "amr", "aiff", "snd")

# What counters, lengths, rates and sizes are not made for, cut to the field's width.
_EXTREMES = (0, 1, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 10**9, 2**31 - 1, 2**31, 2**32 - 1, 2**32 - 9, 2**63 - 1, 2**64 - 1)

Intact = dict[str, list[Path]]
Mutation = Callable[[bytearray, bytearray, random.Random], bytearray]


# --- mutations


def _stretch(content: bytearray, dice: random.Random) -> tuple[int, int]:
    length = dice.randint(1, max(min(len(content) // 2, 8192), 1))
    start = dice.randrange(max(len(content) - length, 1))
    return start, start + length


def _truncated(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    return content[: dice.randrange(dice.choice((len(content), 600)))]


def _bits_flipped(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    within = dice.choice((512, len(content)))
    for _ in range(dice.choice((1, 2, 8, 64))):
        content[dice.randrange(min(within, len(content)))] ^= 1 << dice.randrange(8)
    return content


def _header_noise(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    within = min(dice.choice((64, 128, 512)), len(content))
    for _ in range(dice.choice((1, 4, 16))):
        content[dice.randrange(within)] = dice.randrange(256)
    return content


def _extremes(content: bytearray, dice: random.Random, first: int, behind: int) -> bytearray:
    for _ in range(dice.choice((1, 1, 3))):
        width = dice.choice((1, 2, 4, 4, 8))
        at = dice.randrange(first, max(behind - width, first + 1))
        value = dice.choice(_EXTREMES) % (1 << 8 * width)
        content[at : at + width] = value.to_bytes(width, dice.choice(("little", "big")))
    return content


def _header_extremes(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    return _extremes(content, dice, 0, min(dice.choice((48, 128, 512)), len(content)))


def _other_extremes(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    # Some containers have their index at the end.
    return _extremes(content, dice, dice.choice((0, max(len(content) - 1024, 0))), len(content))


def _head_of_another(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    length = dice.choice((4, 12, 44, 64, 512, 4096))
    return other[:length] + content[length:]


def _joined(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    return content + other


def _block_zeroed(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    start, end = _stretch(content, dice)
    content[start:end] = bytes(end - start)
    return content


def _block_of_noise(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    start, end = _stretch(content, dice)
    content[start:end] = dice.randbytes(end - start)
    return content


def _block_repeated(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    start, end = _stretch(content, dice)
    return content[:end] + content[start:end] * dice.choice((1, 1, 5)) + content[end:]


def _block_missing(content: bytearray, other: bytearray, dice: random.Random) -> bytearray:
    start, end = _stretch(content, dice)
    return content[:start] + content[end:]


MUTATIONS: dict[str, Mutation] = {
    "truncated": _truncated,
    "bits-flipped": _bits_flipped,
    "header-noise": _header_noise,
    "header-extremes": _header_extremes,
    "other-extremes": _other_extremes,
    "head-of-another": _head_of_another,
    "joined": _joined,
    "block-zeroed": _block_zeroed,
    "block-of-noise": _block_of_noise,
    "block-repeated": _block_repeated,
    "block-missing": _block_missing,
}


def make_mutant(number: int, seed: int, intact: Intact) -> tuple[str, bytes]:
    """One mutant: its path below the folder of all, which says format and mutations, and its bytes."""
    dice = random.Random(f"{seed} {number}")
    format_name = dice.choice(sorted(intact))
    content = bytearray(dice.choice(intact[format_name]).read_bytes())
    other = bytearray(dice.choice(intact[dice.choice(sorted(intact))]).read_bytes())
    kinds = dice.choices(list(MUTATIONS), k=dice.choice((1, 1, 1, 2)))
    for kind in kinds:
        if content:
            content = MUTATIONS[kind](content, other, dice)
    return f"{format_name}/{number:06d}-{'-'.join(kinds)}.{dice.choice(_EXTENSIONS)}", bytes(content)


# --- what is damaged


def encode_all(wavs: Sequence[Path], folder: Path) -> Intact:
    """Each format's files, made in turn from the WAVs given."""
    import soundfile

    from tests.audio.encoding import FFMPEG_FORMATS, encode_sample

    wav = itertools.cycle(wavs)
    intact: Intact = {}
    for name in FFMPEG_FORMATS:
        intact[name] = [encode_sample(folder, name, next(wav))]
    for container in (*_MANY_SUBTYPES, *_ONE_SUBTYPE):
        every = list(soundfile.available_subtypes(container))
        for subtype in every if container in _MANY_SUBTYPES else [soundfile.default_subtype(container)]:
            samples, rate_hz = soundfile.read(next(wav), dtype="float32")
            path = folder / f"{container}-{subtype}"
            try:
                soundfile.write(path, samples, rate_hz, subtype, format=container)
            except soundfile.SoundFileError:  # not at this rate
                continue
            intact.setdefault(container.lower(), []).append(path)
    return intact


# --- results


@dataclass
class MeasuringEngine:
    """An engine that also notes its workers' largest memory and longest task."""

    inner: Engine
    workers: int = 1
    peak_mb: float = 0.0
    longest_secs: float = 0.0

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Outcome[Any, Any]]:
        """See `ser_batch.runtime.engine.Engine.map`."""
        for outcome in self.inner.map(partial(_measured, function=function), tasks):
            result = outcome.result
            if result is not None:
                result, peak_mb, secs = result
                self.peak_mb, self.longest_secs = max(self.peak_mb, peak_mb), max(self.longest_secs, secs)
            yield replace(outcome, result=result)


def _measured(task: Any, function: Callable[[Any], Any]) -> tuple[Any, float, float]:
    began = time.perf_counter()
    return function(task), peak_mb(), time.perf_counter() - began


def peak_mb() -> float:
    """The most memory this process had. (The system's ``ru_maxrss`` starts at the parent's.)"""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


@dataclass
class FuzzSummary:
    """Results of all mutants.

    Attributes:
        outcomes: number of mutants that became examples, or were refused, by stage and kind of reason.
        crashes: mutants that crashed their worker, with the exit reason.
        wrong: bugs: mutants in no table or in two, uncaught errors, damaged records.
        culprits: the mutants that caused ``crashes`` and ``wrong``, where they could be identified.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    culprits: set[str] = field(default_factory=set)

    def blame(self, file: str, wrong: str) -> None:
        """Record a bug and the mutant that caused it."""
        self.wrong.append(f"{file}: {wrong}")
        self.culprits.add(file)


def reason_family(reason: str) -> str:
    """A reason without the numbers and details that differ from file to file."""
    return re.sub(r"[-+]?\d[\d.e+-]*", "N", re.sub(r" \(.*|; last error log.*", "", reason))


def fuzz(
    numbers: range, seed: int, intact: Intact, engine: Engine, summary: FuzzSummary, keep: Path | None = None
) -> None:
    """Build record folders from mutants, with each front end in turn, and count the results.

    Args:
        numbers: of the mutants.
        seed: of the mutants.
        intact: what is damaged, from `encode_all`.
        engine: where shards are written.
        summary: updated in place.
        keep: folder for the culprits; None: they are not kept.
    """
    for begin in range(0, len(numbers), MUTANTS_PER_BUILD):
        part = numbers[begin : begin + MUTANTS_PER_BUILD]
        front_end = _FRONT_ENDS[part[0] // MUTANTS_PER_BUILD % len(_FRONT_ENDS)]
        with tempfile.TemporaryDirectory() as work:
            source, out = Path(work, "source"), Path(work, "records")
            files = set()
            for number in part:
                file, content = make_mutant(number, seed, intact)
                (source / file).parent.mkdir(parents=True, exist_ok=True)
                (source / file).write_bytes(content)
                files.add(file)
            (source / INTACT).parent.mkdir()
            shutil.copy(intact["wav"][0], source / INTACT)
            _build_and_count(source, out, files, front_end, engine, summary)
            for file in sorted(summary.culprits & files) if keep else ():
                assert keep is not None
                (keep / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(source / file, keep / file)


def _build_and_count(
    source: Path, out: Path, files: set[str], front_end: FrontEnd, engine: Engine, summary: FuzzSummary
) -> None:
    plan = plan_build(
        label_recordings(list_source(str(source)), "folder"), BuildOptions(front_end, SplitPlan("random"))
    )
    try:
        records = build_records(plan, out, engine).records
    except OutputError as error:  # a crash that no single recording repeats
        summary.wrong.append(str(error))
    except Exception as error:
        summary.wrong.append(f"the build ended: {error!r}")
        for outcome in engine.map(partial(_uncaught, front_end=front_end), recordings(plan.recordings)):
            if outcome.result:
                summary.blame(outcome.task.file, outcome.result)
    else:
        count(records, files, summary)
        summary.wrong += [f"not sound: {problem}" for problem in verify_records(records, engine)]


def _uncaught(recording: Recording, front_end: FrontEnd) -> str:
    """The uncaught error of a recording, or empty."""
    try:
        probe([(0, recording)], front_end)
    except Exception as error:
        return repr(error)
    return ""


def count(records: RecordFolder, files: set[str], summary: FuzzSummary) -> None:
    """Add the results of files to a summary; each file must be either examples or one error."""
    examples = Counter(file for table in records.manifest("file") for file in table["file"].to_pylist())
    if examples.pop(INTACT, 0) == 0:
        summary.wrong.append(f"{INTACT} is no example")
    tables = Counter([*examples])
    for row in (row for table in records.errors() for row in table.to_pylist()):
        tables[row["file"]] += 1
        summary.outcomes[f"{row['stage']}: {reason_family(row['error'])}"] += 1
        if row["stage"] == "worker":
            summary.crashes.append(f"{row['file']}: {row['error']}")
            summary.culprits.add(row["file"])
    summary.outcomes["example"] += len(examples)
    for file in files | tables.keys():
        if tables[file] != 1 or file not in files:
            summary.blame(file, f"has {tables[file]} rows, expected {int(file in files)}")


def report_truth(arguments: argparse.Namespace) -> int:
    """Check the lengths of files, and print the results."""
    from tools.audio_truth import KINDS, check_truth

    began = time.perf_counter()
    numbers = range(arguments.first, arguments.first + arguments.truth)
    with LocalEngine(arguments.workers) as engine:
        summary = check_truth(numbers, arguments.seed, sorted(arguments.corpus.rglob("*.wav")), engine)
    for (treatment, reported), number in sorted(summary.outcomes.items()):
        print(f"{number:8d}  {treatment}: {reported}")
    for line in summary.wrong:
        print(f"WRONG: {line}")
    secs = time.perf_counter() - began
    print(
        f"{arguments.truth} files in {len(KINDS)} kinds, seed {arguments.seed}: "
        f"{len(summary.wrong)} wrong; {secs:.0f} s"
    )
    return 1 if summary.wrong else 0


def main() -> int:
    """Damage, build, count, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="a folder of WAVs")
    parser.add_argument("--mutations", type=int, default=10_000)
    parser.add_argument("--truth", type=int, metavar="N", help="check the lengths of N files instead")
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-j", "--workers", type=int, default=2)
    parser.add_argument("--keep", type=Path, help="where to leave mutants that broke something")
    arguments = parser.parse_args()
    if arguments.truth:
        return report_truth(arguments)
    began, summary = time.perf_counter(), FuzzSummary()
    numbers = range(arguments.first, arguments.first + arguments.mutations)
    with LocalEngine(arguments.workers) as local, tempfile.TemporaryDirectory() as folder:
        engine = MeasuringEngine(local, arguments.workers)
        intact = encode_all(sorted(arguments.corpus.rglob("*.wav")), Path(folder))
        print(f"{sum(map(len, intact.values()))} intact files in {len(intact)} formats: {', '.join(intact)}")
        fuzz(numbers, arguments.seed, intact, engine, summary, arguments.keep)
    for outcome, number in summary.outcomes.most_common():
        print(f"{number:8d}  {outcome}")
    for line in [*summary.crashes, *summary.wrong]:
        print(f"WRONG: {line}")
    print(
        f"{arguments.mutations} mutants, seed {arguments.seed}: {summary.outcomes['example']} examples, "
        f"{len(summary.crashes)} crashed their worker, {len(summary.wrong)} wrong; a worker's memory was at most "
        f"{engine.peak_mb:.0f} MB and its longest shard took {engine.longest_secs:.1f} s; "
        f"{time.perf_counter() - began:.0f} s in all"
    )
    return 1 if summary.crashes or summary.wrong or engine.peak_mb > MOST_WORKER_MB else 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))  # the formats stand beside the tests
    sys.exit(main())
