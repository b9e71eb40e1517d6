"""The report page of a model bundle."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ser_batch.errors import BundleError
from ser_batch.evaluation.metrics import reliability, score
from ser_batch.models.bundles import Bundle, open_bundle
from ser_batch.models.calibration import apply_temperature
from ser_batch.reports.clips import ClipMaker
from ser_batch.reports.page import Page, Section, Table
from ser_batch.reports.score_report import Scored, score_sections, secs_of
from ser_batch.reports.training_curves import read_history, training_sections
from ser_batch.training.recipes import PARTS, VALIDATION, history_name, recipe_title


def bundle_page(folder: Path, make_clips: ClipMaker | None = None) -> Page:
    """The page of a model bundle; ``make_clips``: see `score_sections`.

    Raises:
        BundleError: it is missing, unfinished or damaged.
    """
    bundle = open_bundle(folder)
    training, scored = bundle.training, _validation(bundle)
    facts = [
        ("labels", f"{len(bundle.labels)}"),
        ("weights", f"{training['parameters']:,}"),
        ("training recordings", f"{training['n_examples']['train']:,}"),
        ("validation recordings", f"{training['n_examples']['validation']:,}"),
        *([(f"validation {name}", value) for name, value in scored.facts[:3]] if scored else []),
        ("temperature", f"{bundle.temperature:.3f}"),
        ("adapts to", ", ".join(bundle.adaptations)),
        ("fingerprint", bundle.short_fingerprint),
    ]
    warnings = [f"{bundle.uncalibrated}. Its probabilities may be too high or too low."] if bundle.uncalibrated else []
    settings = [
        *_flat("recipe", training["recipe"]),
        *_flat("front end", bundle.front_end.to_json()),
        ("records", training["records"][:12]),
        ("seed", str(training["seed"])),
        *((f"version of {name}", version) for name, version in sorted(training["versions"].items())),
    ]
    sections = [
        *_training(folder),
        *(score_sections(scored, make_clips) if scored else []),
        Section("Settings", tables=[Table("settings", "All settings", ["setting", "value"], settings)]),
    ]
    subtitle = f"recipe {recipe_title(training['recipe'])}; labels: {', '.join(bundle.labels)}"
    return Page(f"Model: {folder.name}", subtitle, warnings, facts, sections)


def _training(folder: Path) -> list[Section]:
    """The curves of each part of the network; none for a bundle without histories."""
    histories = {}
    for part in PARTS:
        path = folder / history_name(part)
        if not path.exists():
            continue
        try:
            histories[part] = [read_history(path)]
        except (OSError, ValueError) as error:
            raise BundleError(f"{path}: is damaged ({error}); train again with --restart") from error
    return training_sections(histories)


def _validation(bundle: Bundle) -> Scored | None:
    """The predictions of the validation split, each recording alone; None for a bundle without."""
    if not (path := bundle.path / VALIDATION).exists():
        return None
    labels = list(bundle.labels)
    try:
        table = pd.read_csv(path, dtype={"file": str, "speaker": str, "label": str}, keep_default_na=False)
        truth = np.array([labels.index(label) for label in table.label])
        before = table[[f"p_{label}" for label in labels]].to_numpy(float)
        files, speakers, starts = table.file.tolist(), table.speaker.tolist(), secs_of(table.start)
        novelty = table.novelty.to_numpy(float) if "novelty" in table else None  # earlier versions did not store it
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise BundleError(f"{path}: is damaged ({error}); train again with --restart") from error
    notes = ["Of the validation split, each recording alone."]
    found, probabilities = {"before calibration": reliability(before, truth)}, before
    if not bundle.uncalibrated:
        probabilities = apply_temperature(before, bundle.temperature)
        found["after calibration"] = reliability(probabilities, truth)
        notes.append("The temperature was fitted to these recordings.")
    scores = score(truth, before.argmax(axis=1), labels)
    return Scored.of(files, truth, probabilities, scores, found, notes, speakers, starts, novelty)


def _flat(name: str, values: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(f"{name}, {key.replace('_', ' ')}", value)
        else:
            yield f"{name}: {key.replace('_', ' ')}", str(value)
