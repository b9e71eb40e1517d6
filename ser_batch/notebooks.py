"""Models, records and tables for notebooks: predictions as pandas DataFrames, examples as tf.data datasets."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ser_batch import api
from ser_batch.api.inputs import local_path
from ser_batch.errors import UsageError
from ser_batch.models.bundles import Bundle, open_bundle, shipped_bundle
from ser_batch.records.folder import RecordFolder, open_records
from ser_batch.records.manifest import MANIFEST_COLUMNS
from ser_batch.storage.filesystems import as_url

if TYPE_CHECKING:
    import tensorflow as tf
    from numpy.typing import NDArray
    from pandas import DataFrame

    from ser_batch.audio.frontends import FrontEnd

PathLike = str | os.PathLike[str]


class Model(Bundle):
    """A model bundle that predicts; see `load_bundle`."""

    def __repr__(self) -> str:
        return f"<Model {self.short_fingerprint}: {', '.join(self.labels)}>"

    def predict(
        self,
        source: PathLike | Sequence[PathLike] | NDArray[Any],
        rate_hz: int | None = None,
        *,
        windows: bool = False,
        adapt: str | None = None,
        labels: str | None = None,
        workers: int | None = None,
    ) -> DataFrame:
        """Predict recordings, or one waveform.

        Args:
            source: a directory, a file, a CSV, or several of them; or a mono waveform, ``(samples,)``, from -1 to 1.
            rate_hz: sampling rate of a waveform.
            windows: a row for each window; else one for each recording.
            adapt: what the predictions are adapted to; see ``ser-batch infer``.
            labels: choose among these, with commas between; None: all.
            workers: number of processes; None: all CPUs.

        Returns:
            The rows and columns of the prediction table; ``start`` and ``end`` are timedeltas. The file of a waveform
            is ``waveform``.

        Raises:
            SerBatchError: the source cannot be listed, or is not a waveform with a rate.

        Example:
            >>> import ser_batch as sb
            >>> predictions = sb.load_bundle().predict("tests/data/emodb/03a01Fa.wav")
            >>> predictions[["file", "emotion"]].values.tolist()
            [['03a01Fa.wav', 'happiness']]
        """
        import numpy as np
        import soundfile

        with tempfile.TemporaryDirectory() as folder:
            recorded = Path(folder) / "waveform"
            if isinstance(source, np.ndarray):
                if rate_hz is None or source.ndim != 1:
                    raise UsageError(f"a waveform needs rate_hz and the shape (samples,); it has {source.shape}")
                soundfile.write(recorded, source, rate_hz, subtype="FLOAT", format="WAV")
                source = recorded
            elif rate_hz is not None:
                raise UsageError("rate_hz is for a waveform; files have their own rate")
            out = Path(folder) / "predictions.parquet"
            api.infer(source, out, model=self.path, windows=windows, adapt=adapt, labels=labels, workers=workers)
            return read_predictions(out)


class Records:
    """A record folder; see `load_records`.

    Attributes:
        path: the folder.
        labels: label names; an example's label is an index into them.
        front_end: of the log-mels.
        fingerprint: SHA-256 over the front end, the labels and the content of the shards.
    """

    def __init__(self, folder: RecordFolder, url: str | None = None) -> None:
        self._folder, self._url = folder, url
        self.path: Path = folder.path
        self.labels: tuple[str, ...] = folder.labels
        self.front_end: FrontEnd = folder.front_end
        self.fingerprint: str = folder.fingerprint

    def __repr__(self) -> str:
        return f"<Records {self.path}: {self._folder.summary()}>"

    def manifest(self) -> DataFrame:
        """A row for each example, in the order of the shards.

        Raises:
            RecordsError: a part of the manifest is missing or damaged.
        """
        import pyarrow as pa

        tables = list(self._folder.manifest(*MANIFEST_COLUMNS))
        frame: DataFrame = pa.concat_tables(tables).to_pandas()
        return frame

    def to_dataset(self, split: str = "train") -> tf.data.Dataset:
        """The examples of a split, in the order of the manifest, read as they are needed.

        Returns:
            Elements ``(log_mel, label)``: float32 ``(n_mels, n_frames)`` in dB, and int64.

        Raises:
            RecordsError: there is no such split, or a store cannot be read.
        """
        from ser_batch.records.reader import split_selection
        from ser_batch.training.input_pipeline import log_mels_and_labels

        selection = split_selection(self._folder, split)
        if self._url is not None:
            from ser_batch.training.s3_shards import register_s3

            register_s3(f"{self._url}/{selection.shards[0].name}")
        return log_mels_and_labels(self._folder, selection, self._url)


def load_bundle(path: PathLike | None = None) -> Model:
    """Open a model bundle; None: the shipped model. The path may be a URL of an object store.

    Raises:
        SourceError: it is missing in the store.
        BundleError: the bundle is missing, unfinished or damaged.

    Example:
        >>> import ser_batch as sb
        >>> sb.load_bundle().labels
        ('anger', 'boredom', 'disgust', 'fear', 'happiness', 'neutral', 'sadness')
    """
    bundle = shipped_bundle() if path is None else open_bundle(local_path(path))
    return Model(bundle.path, bundle.content, bundle.fingerprint)


def load_records(path: PathLike, *, stream: bool = False) -> Records:
    """Open a record folder. Its path may be a URL of an object store; then it is copied to this machine before.

    Args:
        path: of the folder.
        stream: of a folder at ``s3://``, copy the manifest only. ``to_dataset`` then reads the shards from the store,
            through tensorflow-io: for folders that are larger than the disk. A process that did this ends with the
            exit code 134 (a fault of tensorflow-io at exit), which notebooks do not notice.

    Raises:
        UsageError: ``stream`` is for ``s3://``.
        SourceError: it is missing in the store.
        RecordsError: it is missing, unfinished or damaged.
    """
    if not stream:
        return Records(open_records(local_path(path)))
    from ser_batch.storage.copies import local_copy

    url = as_url(path)
    if url is None or not url.startswith("s3://"):
        raise UsageError(f"{path}: stream=True is for record folders at s3://")
    folder = local_copy(url, is_wanted=lambda name: "/" in name or ".tfrecord-" not in name)
    return Records(open_records(folder), url)


def read_predictions(path: PathLike) -> DataFrame:
    """A prediction table of any format; ``start`` and ``end`` are timedeltas, empty texts are None.

    Args:
        path: of the table; may be a URL of an object store.

    Raises:
        SourceError: it is missing in the store.
        OutputError: the file is not a prediction table.
    """
    import pandas as pd

    from ser_batch.inference.table import read_rows

    frame = pd.DataFrame(read_rows(local_path(path)))
    for name in ("start", "end"):
        frame[name] = pd.to_timedelta(frame[name].astype(float), unit="s")
    return frame
