"""Score the adaptations of a bundle on batches of many kinds, from a corpus that it was not trained on.

    python tools/adaptation_batches.py ravdess.csv [--model BUNDLE] [--draws 20]

The CSV has the columns file, label and speaker. Every recording is embedded once; batches are drawn from the
embeddings: few recordings, one speaker, one emotion, two recordings of each speaker, all. Prints the accuracy of each
adaptation (mean over draws), and the adjusted Rand index of the voices found.
"""

import argparse
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score

from ser_batch.corpus.sources import list_source
from ser_batch.inference.adaptation import find_groups
from ser_batch.inference.embeddings import EmbeddingOptions
from ser_batch.inference.predictions import Classifier, classify
from ser_batch.inference.results import complete_results, keys_of
from ser_batch.models.bundles import Adaptation, open_bundle, shipped_bundle
from ser_batch.runtime.local import LocalEngine
from ser_batch.runtime.resources import usable_cpus

Rows = NDArray[np.intp]
HOW: tuple[Adaptation, ...] = ("none", "batch", "voices", "speakers")


def batches(truth: pd.DataFrame, draws: int) -> Iterator[tuple[str, list[Rows]]]:
    """Kinds of batches, each as several draws of row numbers."""
    random = np.random.default_rng(0)
    rows = np.arange(len(truth))
    for size in (1, 3, 10, 30, 100, 300):
        n_draws = max(draws, 200 // size)
        yield f"{size} at random", [random.choice(rows, size, replace=False) for _ in range(n_draws)]
    of_speaker = truth.groupby("speaker").indices
    yield "all of one speaker", [np.asarray(own) for own in of_speaker.values()]
    yield (
        "two of each speaker",
        [
            np.concatenate([random.choice(np.asarray(own), 2, replace=False) for own in of_speaker.values()])
            for _ in range(draws)
        ],
    )
    of_label = truth.groupby("label").indices
    for size in (10, 90):
        drawn = [
            random.choice(np.asarray(own), size, replace=False)
            for own in of_label.values()
            for _ in range(max(draws // 5, 1))
        ]
        yield f"{size} of one emotion", drawn
    yield "all", [rows]


def main() -> None:
    """Embed, draw, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="CSV with the columns file, label and speaker")
    parser.add_argument("--model", type=Path, help="bundle folder (default: the shipped model)")
    parser.add_argument("--draws", type=int, default=20)
    options = parser.parse_args()
    bundle = open_bundle(options.model) if options.model else shipped_bundle()
    truth = pd.read_csv(options.corpus, dtype=str)
    listing = list_source(str(options.corpus))
    with tempfile.TemporaryDirectory() as folder, LocalEngine(usable_cpus()) as engine:
        complete = complete_results(listing, keys_of(listing), EmbeddingOptions.of(bundle), engine, Path(folder))
        embedded = [replace(one, embeddings=one.embeddings[:]) for one in complete.results()]
    used = np.flatnonzero(truth.label.isin(bundle.labels))
    truth, embedded = truth.iloc[used].reset_index(drop=True), [embedded[row] for row in used]
    classifier = Classifier.of(bundle)
    labels = truth.label.map(bundle.labels.index).to_numpy()
    print(f"| batch | {' | '.join(HOW)} | adjusted Rand index |\n| --- |{' ---: |' * (len(HOW) + 1)}")
    for name, draws in batches(truth, options.draws):
        shares: dict[str, list[float]] = {adapt: [] for adapt in HOW}
        agreement = []
        for rows in draws:
            some = [embedded[row] for row in rows]
            means, speakers = [one.mean for one in some], truth.speaker.iloc[rows].tolist()
            names = truth.file.iloc[rows].tolist()
            for adapt in HOW:
                groups = find_groups(adapt, partial(iter, means), speakers, names, classifier.arrays)
                figures = classify(some, groups.of(range(len(rows))), classifier)
                best = np.array([one.mean(axis=0)[:-1].argmax() for one in figures])
                shares[adapt].append(float((best == labels[rows]).mean()))
                if adapt == "voices":
                    agreement.append(adjusted_rand_score(speakers, groups.speakers))
        shown = " | ".join(f"{np.mean(shares[adapt]):.3f}" for adapt in HOW)
        print(f"| {name} | {shown} | {np.mean(agreement):.2f} |")


if __name__ == "__main__":
    main()
