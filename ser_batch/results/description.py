"""What a record folder, a bundle or a prediction table is, in a few lines."""

from collections import Counter
from pathlib import Path

from ser_batch.audio.frontend import FrontEnd, preset_name
from ser_batch.errors import SourceError
from ser_batch.models.bundles import DESCRIPTION, open_bundle
from ser_batch.records.layout import BUILDING, PROVENANCE, RecordFolder, open_records
from ser_batch.records.splits import SPLITS
from ser_batch.results.tables import read_summary


def describe(path: Path) -> list[str]:
    """Lines for a person.

    Raises:
        SourceError: it is none of the three.
    """
    if (path / PROVENANCE).exists() or (path / BUILDING).exists():
        return _describe_records(open_records(path))
    if (path / DESCRIPTION).exists() or (path / "checkpoints").exists():
        return _describe_bundle(path)
    if path.is_file():
        return _describe_table(path)
    raise SourceError(f"{path}: neither a record folder, nor a bundle, nor a prediction table")


def _describe_records(records: RecordFolder) -> list[str]:
    plan = records.provenance["plan"]
    rows = list(records.manifest())
    cells = Counter((row["label"], row["split"]) for row in rows)
    splits = [split for split in SPLITS if records.shards(split)]
    speakers = {split: sorted({row["speaker"] for row in rows if row["split"] == split} - {""}) for split in splits}
    width = max(len(label) for label in [*records.labels, "speakers"])
    lines = [
        f"record folder {records.path}: {records.summary()}",
        f"front end: {_shown(records.front_end)}",
        f"labels from {plan['label_rule']}; split by {plan['split']['rule']}, seed {plan['split']['seed']}",
        f"fingerprint {records.fingerprint[:12]}, written by ser-batch {records.provenance['version']}",
        "",
        f"{'':{width}}" + "".join(f"{split:>12}" for split in splits),
    ]
    lines += [
        f"{label:{width}}" + "".join(f"{cells[label, split]:12d}" for split in splits) for label in records.labels
    ]
    lines.append(f"{'speakers':{width}}" + "".join(f"{len(speakers[split]):12d}" for split in splits))
    return lines


def _describe_bundle(path: Path) -> list[str]:
    bundle = open_bundle(path)
    training = bundle.training
    return [
        f"bundle {path}: {bundle.summary()}",
        f"labels: {', '.join(bundle.labels)}",
        f"front end: {_shown(bundle.front_end)}",
        f"trained on {training['records_path']} ({training['records'][:12]}), "
        f"{training['examples']['train']} examples, seed {training['seed']}",
        "versions: " + ", ".join(f"{name} {version}" for name, version in sorted(training["versions"].items())),
        f"fingerprint {bundle.short_fingerprint}",
    ]


def _describe_table(path: Path) -> list[str]:
    table = read_summary(path)
    return [
        f"prediction table {path}: {len(table.files)} rows, {len(table.errors)} of them errors",
        f"model: {', '.join(sorted(table.models))}",
        f"labels: {', '.join(table.labels)}",
    ]


def _shown(front_end: FrontEnd) -> str:
    return (
        f"{preset_name(front_end)} ({front_end.rate_hz} Hz, {front_end.n_mels} mel bands, "
        f"{front_end.n_frames} frames, {front_end.length_secs:g} s, longer audio: {front_end.longer}, "
        f"channel {front_end.channel})"
    )
