"""Bundle: a trained model as one folder, with network, labels, front end and provenance."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from ser_batch.audio.decoders import Float32s
from ser_batch.audio.frontends import FrontEnd
from ser_batch.errors import BundleError
from ser_batch.formatting import pluralize
from ser_batch.models.agreement import Agreement
from ser_batch.models.calibration import apply_temperature, distance_temperature
from ser_batch.models.heads import Head
from ser_batch.models.litert import RuntimeEncoder
from ser_batch.models.novelty import Novelty
from ser_batch.models.voices import VoiceSpace
from ser_batch.storage.fingerprints import file_sha256, json_fingerprint
from ser_batch.storage.settings import Settings
from ser_batch.storage.writing import open_atomically, sync_folder, write_json

if TYPE_CHECKING:
    import keras

MODEL = "model.keras"
RUNTIME = "model.tflite"
HEAD = "head.npz"
NOVELTY = "novelty.npz"
VOICES = "voices.npz"
AGREEMENT = "agreement.npz"
DESCRIPTION = "bundle.json"
# What predictions are adapted to: see `ser_batch.inference.adaptation`.
Adaptation = Literal["none", "batch", "speakers", "voices"]
BUNDLE_FILES = {MODEL, RUNTIME, HEAD, NOVELTY, VOICES, AGREEMENT, DESCRIPTION}


class Calibration(Settings):
    """Calibration of the probabilities.

    Attributes:
        temperature: divides the logits of recordings that are predicted alone; 1 changes nothing.
        fitted_on: number of examples, outside the training examples, that it was fitted on; None: it was not fitted.
        adapted_temperature: the same for recordings that are adapted to a batch; None: ``temperature`` is used.
    """

    temperature: float
    fitted_on: int | None = None
    adapted_temperature: float | None = None


class BundleContent(Settings):
    """The content of a bundle except its network.

    Attributes:
        labels: label names in the order of the network's outputs.
        front_end: of the network's input.
        calibration: of the network's probabilities.
        speaker_normalised: whether embeddings are normalised by speaker or by batch.
        training: provenance as JSON: records, recipe, seed, versions, last epoch.
        head, novelty: fingerprints of the bundle's arrays; set by `save_bundle`.
        voices: the same, of the voice space; None: the training examples have no speakers.
        agreement: the same, of the models of groups of speakers; None: there are too few speakers.
        runtime: SHA-256 of the LiteRT encoder; set by `save_bundle`.
    """

    labels: tuple[str, ...]
    front_end: FrontEnd
    calibration: Calibration
    speaker_normalised: bool
    training: dict[str, Any]
    head: str = ""
    novelty: str = ""
    voices: str | None = None
    agreement: str | None = None
    runtime: str = ""

    @property
    def temperature(self) -> float:
        """Calibration temperature of the network's probabilities."""
        return self.calibration.temperature

    @property
    def fitted_on(self) -> int | None:
        """See `Calibration`. Bundles of earlier versions do not store it: their temperature of 1 was not fitted."""
        if "fitted_on" in self.calibration.model_fields_set or self.temperature == 1.0:
            return self.calibration.fitted_on
        return int(self.training.get("n_examples", {}).get("validation", 0))


class _BundleFile(BundleContent):
    """``bundle.json``."""

    kind: Literal["bundle"] = "bundle"
    fingerprint: str


class BundleArrays(NamedTuple):
    """The files of a bundle that turn embeddings into predictions; None if not available."""

    head: Head
    novelty: Novelty
    voices: VoiceSpace | None = None
    agreement: Agreement | None = None

    def probabilities(self, features: Float32s, temperature: float = 1.0) -> NDArray[np.float64]:
        """Probabilities of recordings that are in no batch, float64 ``(n, labels)``.

        Args:
            features: of `Head.features`, float32 ``(n, features)``.
            temperature: of the calibration; that of each recording grows with its distance to the training data.
        """
        temperatures = temperature * distance_temperature(self.novelty.excess(features))
        return apply_temperature(self.head.probabilities(features), temperatures)


@dataclass(frozen=True)
class Bundle:
    """A bundle's description. `load_encoder` and `load_arrays` are for prediction, `load_network` is for Keras.

    Attributes:
        path: its folder.
        content: everything except the network.
        fingerprint: SHA-256 over the weights and ``content`` without ``training`` and ``runtime``.
    """

    path: Path
    content: BundleContent
    fingerprint: str

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names in the order of the network's outputs."""
        return self.content.labels

    @property
    def front_end(self) -> FrontEnd:
        """The front end of the network's input."""
        return self.content.front_end

    @property
    def temperature(self) -> float:
        """Calibration temperature of the network's probabilities."""
        return self.content.temperature

    @property
    def uncalibrated(self) -> str:
        """The reason that the probabilities are not calibrated, one line; empty if they are."""
        if self.content.fitted_on is not None:
            return ""
        n_examples = self.training.get("n_examples", {}).get("validation", 0)
        if not n_examples:
            return "not calibrated: no validation recordings"
        return f"not calibrated: all {pluralize(n_examples, 'validation example')} are predicted correctly"

    @property
    def training(self) -> dict[str, Any]:
        """Provenance as JSON; see `BundleContent`."""
        return self.content.training

    @property
    def short_fingerprint(self) -> str:
        """The first 12 digits of the fingerprint, which identify the model in prediction tables."""
        return self.fingerprint[:12]

    def summary(self, recipe_title: str) -> str:
        """One line of text; ``recipe_title`` is from `ser_batch.training.recipes.recipe_title`."""
        last = "  ".join(f"{name} {value:.3f}" for name, value in self.training["last_epoch"].items())
        return (
            f"{pluralize(len(self.labels), 'label')}, recipe {recipe_title}, "
            f"{pluralize(self.training['recipe']['epochs'], 'epoch')}, {self.training['parameters']:,} parameters; "
            f"last epoch: {last}"
        )

    @property
    def adaptations(self) -> tuple[Adaptation, ...]:
        """What predictions can be adapted to; see `ser_batch.inference.adaptation`."""
        if not self.content.speaker_normalised:
            return ("none",)
        return ("none", "batch", "speakers") if self.content.voices is None else get_args(Adaptation)

    def check(self) -> None:
        """Check that all files exist, and that those for prediction match the description.

        Raises:
            BundleError: a file is missing, or does not match.
        """
        self.load_encoder()
        self.load_arrays()
        if not (self.path / MODEL).exists():
            raise BundleError(f"{self.path / MODEL}: is missing; copy the bundle again")

    def load_network(self) -> keras.Model:
        """Load the trained network, without optimizer. No code from the bundle is executed.

        Raises:
            BundleError: the file is damaged, or does not match the description.
        """
        network = load_keras(self.path / MODEL)
        if network.output_shape[-1] != len(self.labels) or network.inputs[0].shape[1:] != self.front_end.shape:
            raise BundleError(f"{self.path}: {MODEL} does not fit {DESCRIPTION}; copy the bundle again as a whole")
        if network_fingerprint(network, self.content) != self.fingerprint:
            raise BundleError(
                f"{self.path}: {MODEL} is not the network that {DESCRIPTION} names; copy the bundle again"
            )
        return network

    def load_encoder(self) -> RuntimeEncoder:
        """Load the encoder for prediction, without TensorFlow.

        Raises:
            BundleError: the file is missing, or does not match the description.
        """
        path = self.path / RUNTIME
        try:
            content = path.read_bytes()
        except OSError as error:
            raise BundleError(f"{path}: cannot be read ({error.strerror}); copy the bundle again") from error
        if hashlib.sha256(content).hexdigest() != self.content.runtime:
            raise BundleError(f"{path}: is not the network that {DESCRIPTION} names; copy the bundle again")
        return RuntimeEncoder(content)

    def load_arrays(self) -> BundleArrays:
        """Load what turns embeddings into predictions.

        Raises:
            BundleError: a file is damaged, or does not match the description.
        """
        content = self.content
        return BundleArrays(
            Head.load(self.path / HEAD, content.head),
            Novelty.load(self.path / NOVELTY, content.novelty),
            None if content.voices is None else VoiceSpace.load(self.path / VOICES, content.voices),
            None if content.agreement is None else Agreement.load(self.path / AGREEMENT, content.agreement),
        )


def open_bundle(path: Path) -> Bundle:
    """Read a finished bundle's description.

    Raises:
        BundleError: it is missing, unfinished or damaged.
    """
    try:
        text = (path / DESCRIPTION).read_bytes()
        content = _BundleFile.parse(text, str(path / DESCRIPTION), BundleError, "; copy the bundle again")
        return Bundle(path, content, content.fingerprint)
    except FileNotFoundError:
        unfinished = (path / "checkpoints").is_dir()
        reason = "training is not finished; run its train command again" if unfinished else "not a model bundle"
        raise BundleError(
            f"{path}: {reason} (no {DESCRIPTION})" if path.is_dir() else f"{path}: no such folder"
        ) from None
    except NotADirectoryError:
        raise BundleError(f"{path}: a file, not a model bundle; give the folder that train wrote") from None
    except OSError as error:
        raise BundleError(f"{path / DESCRIPTION}: cannot be read ({error}); copy the bundle again") from error


def shipped_bundle() -> Bundle:
    """The bundle that is included in the package."""
    return open_bundle(Path(str(resources.files("ser_batch"))) / "shipped")


def save_bundle(
    path: Path, network: keras.Model, encoder: keras.Model, arrays: BundleArrays, content: BundleContent
) -> Bundle:
    """Write a bundle. The description is written last: a bundle with a description is complete.

    Args:
        path: an existing folder.
        network: not compiled, so that no optimizer is saved.
        encoder: its part from log-mels to embeddings.
        arrays: head, novelty, voice space and agreement.
        content: everything else; the fingerprints of the files are set here.
    """
    from ser_batch.models.exports import convert  # it imports TensorFlow

    save_keras(network, path / MODEL)
    _write_atomically(path / RUNTIME, partial(convert, encoder))
    for name, array_file in zip((HEAD, NOVELTY, VOICES, AGREEMENT), arrays, strict=True):
        (path / name).unlink(missing_ok=True)
        if array_file is not None:
            with open_atomically(path / name, "wb") as file:
                array_file.save(file)
    content = content.replace(
        head=arrays.head.fingerprint,
        novelty=arrays.novelty.fingerprint,
        voices=arrays.voices and arrays.voices.fingerprint,
        agreement=arrays.agreement and arrays.agreement.fingerprint,
        runtime=file_sha256(path / RUNTIME),
    )
    fingerprint = network_fingerprint(network, content)
    write_json(path / DESCRIPTION, content.to_json() | {"kind": "bundle", "fingerprint": fingerprint})
    return open_bundle(path)


def save_keras(network: keras.Model, path: Path) -> None:
    """Save in Keras' own format, atomically."""
    _write_atomically(path, network.save)


def _write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file atomically with a function that needs a path with the final suffix."""
    begun = path.with_name(f".{path.stem}.partial{path.suffix}")
    write(begun)
    with open(begun, "rb") as file:
        os.fsync(file.fileno())
    begun.replace(path)
    sync_folder(path.parent)


def load_keras(path: Path) -> keras.Model:
    """Load a ``.keras`` file in safe mode, without optimizer.

    Raises:
        BundleError: the file is missing or damaged.
    """
    import keras

    try:
        return keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras, h5py, zipfile and json each raise their own
        detail = " ".join(str(error).split())[:200]
        raise BundleError(f"{path}: cannot be loaded ({detail}); copy the bundle again, or train again") from error


def network_fingerprint(network: keras.Model, content: BundleContent) -> str:
    """SHA-256 over everything that affects predictions; it does not depend on dates in the files."""
    # Without `runtime`: converter versions write different bytes for the same network.
    ignored: Any = {"training": True, "runtime": True, "kind": True, "fingerprint": True, "calibration": {"fitted_on"}}
    values = content.model_dump(exclude=ignored)
    # Bundles of earlier versions do not have these.
    for place, name in ((values, "agreement"), (values["calibration"], "adapted_temperature")):
        if place[name] is None:
            del place[name]
    return json_fingerprint([weights_sha256(network), values])


def weights_sha256(network: keras.Model) -> str:
    """SHA-256 over all weights with their shapes, in the network's order."""
    import keras

    digest = hashlib.sha256()
    for weight in network.weights:
        values = keras.ops.convert_to_numpy(weight.value)
        digest.update(f"{values.dtype}{values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()
