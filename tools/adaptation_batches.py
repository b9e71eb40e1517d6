"""Score the adaptations of a bundle on batches of many kinds, from a corpus that it was not trained on.

    python tools/adaptation_batches.py ravdess.csv [--model BUNDLE] [--draws 20]

The CSV has the columns file, label and speaker. Every recording is embedded once as it is and once by telephone, and so
is some synthetic music; batches are drawn from the embeddings: few recordings, one speaker, one emotion, two recordings
of each speaker, two microphones, music among speech, all. Prints the accuracy of each adaptation on the speech (mean
over draws), and the adjusted Rand index of the voices found.
"""

import argparse
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from ser_batch.corpus.sources import list_sources
from ser_batch.inference.adaptation import find_groups
from ser_batch.inference.embeddings import Embedded, EmbeddingOptions
from ser_batch.inference.predictions import Classifier, classify
from ser_batch.inference.results import complete_results, keys_of
from ser_batch.models.bundles import Adaptation, Bundle, open_bundle, shipped_bundle
from ser_batch.runtime.local import LocalEngine
from ser_batch.runtime.resources import usable_cpus
from tools.novelty_auroc import synthetic_music
from tools.robustness import PERTURBATIONS

Rows = NDArray[np.intp]
HOW: tuple[Adaptation, ...] = ("none", "batch", "voices", "speakers")
N_MUSIC = 100


def batches(truth: pd.DataFrame, draws: int) -> Iterator[tuple[str, list[Rows]]]:
    """Kinds of batches, each as several draws of row numbers of a pool.

    Args:
        truth: ``n`` recordings; the pool has these, the same by telephone, and music.
        draws: number of draws of a kind.
    """
    random = np.random.default_rng(0)
    n = len(truth)

    def draw(make: Callable[[], Rows], n_draws: int = draws) -> list[Rows]:
        return [make() for _ in range(n_draws)]

    def some(size: int, among: Rows | None = None) -> Rows:
        return random.choice(np.arange(n) if among is None else among, size, replace=False)

    for size in (1, 3, 10, 30, 100, 300):
        yield f"{size} at random", draw(partial(some, size), max(draws, 200 // size))
    of_speaker = [np.asarray(own) for own in truth.groupby("speaker").indices.values()]
    yield "all of one speaker", of_speaker
    yield "two of each speaker", draw(lambda: np.concatenate([some(2, own) for own in of_speaker]))
    of_label = [np.asarray(own) for own in truth.groupby("label").indices.values()]
    for size in (10, 90):
        drawn = [one for own in of_label for one in draw(partial(some, size, own), max(draws // 5, 1))]
        yield f"{size} of one emotion", drawn
    yield "100 by telephone", draw(lambda: n + some(100))
    yield "100, half of them by telephone", draw(lambda: some(100) + n * (np.arange(100) % 2))
    music = 2 * n + np.arange(N_MUSIC)
    yield "90, and 10 of music", draw(lambda: np.concatenate([some(90), random.choice(music, 10, replace=False)]))
    yield "all", [np.arange(n)]


def main() -> None:
    """Embed, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="CSV with the columns file, label and speaker")
    parser.add_argument("--model", type=Path, help="bundle folder (default: the shipped model)")
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    bundle = open_bundle(options.model) if options.model else shipped_bundle()
    truth = pd.read_csv(options.corpus, dtype=str)
    truth = truth[truth.label.isin(bundle.labels)].reset_index(drop=True)
    paths = [options.corpus.parent / name for name in truth.file]
    with tempfile.TemporaryDirectory() as folder:
        pool = embed([*paths, *by_telephone(paths, Path(folder)), *music(Path(folder))], bundle)
    labels = [bundle.labels.index(label) for label in truth.label]
    labels = [*labels, *labels, *[-1] * N_MUSIC]
    speakers = [*truth.speaker, *truth.speaker, *[""] * N_MUSIC]
    classifier = Classifier.of(bundle)
    print(f"| batch | {' | '.join(HOW)} | adjusted Rand index |\n| --- |{' ---: |' * (len(HOW) + 1)}")
    for name, draws in batches(truth, options.draws):
        scores = [scores_of(rows, pool, labels, speakers, classifier) for rows in draws]
        print(f"| {name} | {' | '.join(f'{share:.3f}' for share in np.mean(scores, axis=0)[:-1])} |", end="")
        print(f" {np.mean(scores, axis=0)[-1]:.2f} |", flush=True)


def by_telephone(paths: Sequence[Path], folder: Path) -> Iterator[Path]:
    """The recordings through 8 kHz and µ-law, as files of a folder."""
    for number, path in enumerate(paths):
        samples, rate_hz = soundfile.read(path)
        mono = samples if samples.ndim == 1 else samples.mean(axis=1)
        changed, changed_hz = PERTURBATIONS["8 kHz, µ-law"](mono, rate_hz, np.random.default_rng(number))
        soundfile.write(folder / f"telephone-{number}.wav", changed, changed_hz)
        yield folder / f"telephone-{number}.wav"


def music(folder: Path) -> Iterator[Path]:
    """Synthetic music of three seconds each, as files of a folder."""
    for number in range(N_MUSIC):
        made = synthetic_music(np.zeros(48_000), [], np.random.default_rng(number))
        soundfile.write(folder / f"music-{number}.wav", 0.5 * made / np.abs(made).max(), 16_000)
        yield folder / f"music-{number}.wav"


def embed(paths: Sequence[Path], bundle: Bundle) -> list[Embedded]:
    """The embeddings of some files."""
    listing = list_sources([str(path) for path in paths])
    with tempfile.TemporaryDirectory() as folder, LocalEngine(usable_cpus()) as engine:
        complete = complete_results(listing, keys_of(listing), EmbeddingOptions.of(bundle), engine, Path(folder))
        return [replace(one, embeddings=one.embeddings[:]) for one in complete.results()]


def scores_of(
    rows: Rows, pool: Sequence[Embedded], labels: Sequence[int], speakers: Sequence[str], classifier: Classifier
) -> list[float]:
    """The accuracy of each adaptation on a batch, then the adjusted Rand index of its voices."""
    some, given = [pool[row] for row in rows], [speakers[row] for row in rows]
    means, truth = [one.mean for one in some], np.array([labels[row] for row in rows])
    shares, agreement = [], 0.0
    for adapt in HOW:
        groups = find_groups(adapt, partial(iter, means), given, [str(row) for row in rows], classifier.arrays)
        best = np.array(
            [figures[0, :-1].argmax() for figures in classify(some, groups.of(range(len(rows))), classifier)]
        )
        shares.append(float((best == truth)[truth >= 0].mean()))
        if adapt == "voices":
            agreement = adjusted_rand_score(given, groups.speakers)
    return [*shares, agreement]


if __name__ == "__main__":
    main()
