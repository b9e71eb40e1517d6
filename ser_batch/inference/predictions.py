"""Predictions from embeddings: the head of a network, calibration, novelty, and the rows of a recording."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from ser_batch.audio.decoders import Float32s
from ser_batch.corpus.labels import DROP
from ser_batch.corpus.table import Part, Recording
from ser_batch.errors import UsageError
from ser_batch.inference.embeddings import WINDOWS_AT_ONCE, Embedded, Float64s, in_blocks
from ser_batch.models.bundles import Bundle, BundleArrays, Calibration
from ser_batch.models.calibration import apply_temperature, distance_temperature
from ser_batch.models.novelty import UNFAMILIAR

# The labels that a table shows, each with the labels of the model whose probabilities it sums up.
Labels = dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Prediction:
    """One row of the prediction table: the prediction for a recording or window, or an error.

    Attributes:
        file: the recording's key.
        start_secs, end_secs: the part of the audio file.
        probabilities: one per label, in the bundle's order, summing to 1.
        duration_secs: of the recording.
        novelty: distance to the training data, 0 to 1.
        warnings: warning codes.
        error: the reason for a missing prediction, or empty; if set, only ``file``, ``part``, ``channel`` and
            ``speaker`` are valid.
        part: requested start and end in seconds, for a row with an error.
        channel: channel number, if every channel has its own rows.
        speaker: as given, or the voice that was found; empty: unknown.
    """

    file: str
    start_secs: float = 0.0
    end_secs: float = 0.0
    probabilities: tuple[float, ...] = ()
    duration_secs: float = 0.0
    novelty: float = 0.0
    warnings: tuple[str, ...] = ()
    error: str = ""
    part: Part = (None, None)
    channel: int | None = None
    speaker: str = ""

    @property
    def best(self) -> int:
        """The index of the most probable label."""
        return max(range(len(self.probabilities)), key=lambda index: self.probabilities[index])


@dataclass(frozen=True)
class Classifier:
    """From embeddings to probabilities and novelty.

    Attributes:
        arrays: head, novelty and voice space of a bundle.
        calibration: of its probabilities.
        members: which labels of the bundle each shown label sums up, float64 ``(bundle's labels, shown labels)``, 1
            or 0.
    """

    arrays: BundleArrays
    calibration: Calibration
    members: Float64s

    @classmethod
    def of(cls, bundle: Bundle, labels: Labels | None = None) -> Classifier:
        """The classifier of a bundle.

        Args:
            bundle: the model.
            labels: see `choose_labels`; None: all of the bundle.

        Raises:
            BundleError: the bundle is damaged.
        """
        shown = [(label,) for label in bundle.labels] if labels is None else list(labels.values())
        members = np.array([[float(label in summed) for summed in shown] for label in bundle.labels])
        return cls(bundle.load_arrays(), bundle.content.calibration, members)

    def __call__(self, embeddings: Float32s, scales: Float32s | None = None) -> Float64s:
        """Probabilities of all labels, not calibrated, then novelty and excess: float64 ``(n, all labels + 2)``.

        The excess is that of `ser_batch.models.novelty.Novelty.excess`.

        Args:
            embeddings: float32 ``(n, features)``.
            scales: factor and offset of each, float32 ``(n, 2, features)``; None: not normalised.
        """
        features = self.arrays.head.features(embeddings, scales)
        novelty = self.arrays.novelty
        return np.column_stack(
            [self.arrays.head.probabilities(features), novelty.of(features), novelty.excess(features)]
        )

    def calibrated(self, figures: Float64s, batch_temperature: float | None = None) -> Float64s:
        """Calibrated probabilities of the shown labels, then the novelty: float64 ``(n, shown labels + 1)``.

        Args:
            figures: as returned by a call, or their means over windows.
            batch_temperature: of the batch that the recordings are adapted to; None: each is predicted alone.
        """
        fitted, adapted = self.calibration.temperature, self.calibration.adapted_temperature
        if batch_temperature is not None:
            fitted = batch_temperature * (fitted if adapted is None else adapted)
        temperatures = fitted * distance_temperature(figures[:, -1])
        probabilities = apply_temperature(figures[:, :-2], temperatures) @ self.members
        probabilities /= np.maximum(probabilities.sum(axis=1, keepdims=True), np.finfo(np.float64).tiny)
        return np.column_stack([probabilities, figures[:, -2]])


def choose_labels(names: str | None, label_map: Mapping[str, str], bundle: Bundle) -> Labels:
    """The labels that a table shows, each with the labels of the bundle that it sums up.

    Args:
        names: some of the labels, after the map, with commas between; None: all.
        label_map: from labels of the bundle to shown labels, or `DROP`; others stay as they are.
        bundle: the model.

    Raises:
        UsageError: there is no such label, or fewer than two are left.
    """
    if unknown := [label for label in label_map if label not in bundle.labels]:
        raise UsageError(f"--label-map: the model has no label '{unknown[0]}'; it has {', '.join(bundle.labels)}")
    shown: dict[str, tuple[str, ...]] = {}
    for label in bundle.labels:
        if (name := label_map.get(label, label)) != DROP:
            shown[name] = (*shown.get(name, ()), label)
    if names is not None:
        wanted = [name.strip() for name in names.split(",")]
        if missing := [name for name in wanted if name not in shown]:
            raise UsageError(f"--labels {names}: there is no label '{missing[0]}'; there are {', '.join(shown)}")
        shown = {name: labels for name, labels in shown.items() if name in wanted}
    if len(shown) < 2:
        raise UsageError(f"the labels to choose among are {', '.join(shown) or 'none'}; give two or more")
    return shown


def predictions_of(
    embedded: Embedded,
    recording: Recording,
    figures: Float64s,
    channel: int | None,
    speaker: str,
    is_unfamiliar: bool = False,
) -> Iterator[Prediction]:
    """The rows of a recording: one for each window, or one for all.

    Args:
        embedded: the recording's result.
        recording: the recording.
        figures: from `classify`.
        channel: channel number, if every channel has its own rows.
        speaker: of the recording.
        is_unfamiliar: the whole batch is unlike the training data.
    """
    if embedded.error:
        part = (recording.start_secs, recording.end_secs)
        yield Prediction(recording.file, error=embedded.error, part=part, channel=channel, speaker=speaker)
        return
    times = embedded.times
    if len(figures) < len(times):
        times = np.array([[times[0, 0], times[-1, 1]]])
    for (start_secs, end_secs), (*probabilities, novelty) in zip(times.tolist(), figures.tolist(), strict=True):
        warnings = embedded.warnings + (("unfamiliar",) if is_unfamiliar or novelty > UNFAMILIAR else ())
        shown = (tuple(probabilities), embedded.duration_secs, novelty, warnings)
        yield Prediction(recording.file, start_secs, end_secs, *shown, channel=channel, speaker=speaker)


def classify(
    results: Sequence[Embedded],
    scales: Float32s | None,
    classifier: Classifier,
    windows: bool = False,
    batch_temperature: float | None = None,
) -> Iterator[Float64s]:
    """The probabilities and novelty of some recordings: of each, float64 ``(rows, shown labels + 1)``.

    Args:
        results: of the recordings.
        scales: factor and offset of each, float32 ``(results, 2, features)``; None: none is normalised.
        classifier: of the bundle.
        windows: one row per window; else one row with the mean over the windows, which is then calibrated.
        batch_temperature: see `Classifier.calibrated`.
    """
    embeddings = (
        (embedding, number) for number, result in enumerate(results) for block in result.blocks() for embedding in block
    )
    figures = (
        row
        for chunk in in_blocks(embeddings, WINDOWS_AT_ONCE)
        for row in classifier(
            np.stack([embedding for embedding, _ in chunk]),
            None if scales is None else scales[[number for _, number in chunk]],
        )
    )
    for result in results:
        rows = np.array(list(islice(figures, len(result.times))))
        if len(rows):
            rows = classifier.calibrated(rows if windows else rows.mean(axis=0, keepdims=True), batch_temperature)
        yield rows
