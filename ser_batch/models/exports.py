"""Conversion of networks to the formats of other runtimes. It imports TensorFlow."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from ser_batch import __version__
from ser_batch.audio.decoders import Float32s
from ser_batch.audio.logmels import PADDING_DB, log_mel_at_rate
from ser_batch.errors import OutputError, UsageError
from ser_batch.models.bundles import Bundle
from ser_batch.models.calibration import DISTANCE_EXPONENT
from ser_batch.models.heads import standardise
from ser_batch.models.litert import MIN_FRAMES
from ser_batch.models.log_mel_graph import log_mels_of
from ser_batch.models.networks.families import encoder_of
from ser_batch.runtime.process import native_code_silenced, temporary_files_removed
from ser_batch.storage.writing import os_errors_named, write_json

ExportFormat = Literal["saved-model", "litert", "onnx"]

DESCRIPTION = "export.json"
# The largest difference of a probability from the bundle's own that is accepted.
TOLERANCE = 1e-3

_FILES: dict[ExportFormat, str] = {"saved-model": "saved_model.pb", "litert": "model.tflite", "onnx": "model.onnx"}
_ONNX_OPSET = 18


@dataclass(frozen=True)
class Export:
    """An exported model.

    Attributes:
        path: its folder.
        file: the model in it.
        difference: the largest difference of its probabilities from the bundle's own, for a test signal.
    """

    path: Path
    file: Path
    difference: float


def parse_export_format(name: str) -> ExportFormat:
    """Check the name of an export format.

    Raises:
        UsageError: there is no such format.
    """
    if name not in _FILES:
        raise UsageError(f"--format {name}: no such format; choose one of {', '.join(_FILES)}")
    return name


def export(bundle: Bundle, out: Path, export_format: ExportFormat, waveform: bool = False) -> Export:
    """Write a bundle's network for another runtime, run it there, and compare with the bundle's own probabilities.

    Args:
        bundle: the model.
        out: folder to write; it gets the model and `DESCRIPTION`, with labels, front end, input and output.
        export_format: format of the model.
        waveform: the model takes a waveform at the front end's rate in place of a log-mel; for ``saved-model`` only.

    Raises:
        UsageError: ``waveform`` with another format.
        OutputError: ``out`` exists, a package is missing, or the exported model gives other probabilities.
    """
    if waveform and export_format != "saved-model":
        raise UsageError(f"--waveform is for --format saved-model, not for {export_format}")
    if out.exists():
        raise OutputError(f"{out}: exists; give another folder")
    graph, begun = _Graph(bundle, waveform), out.with_name(f".{out.name}.partial")
    with os_errors_named(out):
        shutil.rmtree(begun, ignore_errors=True)
        begun.mkdir(parents=True)
        try:
            with native_code_silenced(), temporary_files_removed():
                _WRITERS[export_format](graph, begun)
                difference = _difference(bundle, graph, _RUNNERS[export_format](begun))
            if not difference <= TOLERANCE:
                raise OutputError(
                    f"{out}: not written; probabilities would differ by {difference:.2g} from those of {bundle.path}"
                )
            write_json(begun / DESCRIPTION, _description(bundle, export_format, graph, difference))
            begun.rename(out)
        finally:
            shutil.rmtree(begun, ignore_errors=True)
    return Export(out, out / _FILES[export_format], difference)


class _Graph:
    """The function that is exported: calibrated probabilities of each recording alone (``--adapt none``)."""

    def __init__(self, bundle: Bundle, waveform: bool) -> None:
        self._encoder = encoder_of(bundle.load_network())
        arrays = bundle.load_arrays()
        self._head, self._novelty = arrays.head, arrays.novelty
        self._temperature = bundle.temperature
        self._front_end = bundle.front_end
        self.is_waveform = waveform
        self.input = "waveform" if waveform else "log_mel"
        self.shape = (None,) if waveform else (None, *self._front_end.shape)

    def concrete(self, shape: tuple[int | None, ...] | None = None) -> Any:
        """The traced function, with an input of this shape."""
        signature = tf.TensorSpec(shape or self.shape, tf.float32, name=self.input)
        call = self._of_waveform if self.is_waveform else self._of_log_mels
        return tf.function(lambda one: {"probabilities": call(one)}, [signature], autograph=False)

    def holder(self) -> tf.Module:
        """The weights, as what a SavedModel or a converter tracks: Keras' own model would be traced again."""
        held = tf.Module()
        held.of_network = [weight.value for weight in self._encoder.weights]
        return held

    def _logits(self, log_mels: Any) -> tuple[Any, Any]:
        """Logits ``(n, labels)``, and the temperature of each recording or window, as a logarithm ``(n, 1)``."""
        embeddings = self._encoder(log_mels, training=False)
        features = standardise(embeddings, self._head.reference, keras.ops)
        excess = self._novelty.excess(features, keras.ops)[:, None]
        return tf.matmul(features, self._head.kernel) + self._head.bias, DISTANCE_EXPONENT * excess

    def _of_log_mels(self, log_mels: Any) -> Any:
        logits, temperatures = self._logits(log_mels)
        return tf.nn.softmax(logits / (self._temperature * tf.exp(temperatures)))

    def _of_waveform(self, samples: Any) -> Any:
        """The mean over the windows, which is then calibrated, as in `ser_batch.inference.predictions`."""
        log_mels = log_mels_of(samples, self._front_end)
        if self._front_end.shorter == "keep":
            missing = tf.maximum(MIN_FRAMES - tf.shape(log_mels)[2], 0)
            log_mels = tf.pad(log_mels, [[0, 0], [0, 0], [0, missing]], constant_values=PADDING_DB)
        logits, temperatures = self._logits(log_mels)
        mean = tf.reduce_mean(tf.nn.softmax(logits), 0)
        temperature = self._temperature * tf.exp(tf.reduce_mean(temperatures))
        return tf.nn.softmax(tf.math.log(tf.maximum(mean, 1e-37)) / temperature)


def _write_saved_model(graph: _Graph, out: Path) -> None:
    held = graph.holder()
    held.serve = graph.concrete()
    tf.saved_model.save(held, str(out), signatures={"serving_default": held.serve})


def _write_litert(graph: _Graph, out: Path) -> None:
    function = graph.concrete((1, *graph.shape[1:]))
    (out / _FILES["litert"]).write_bytes(_litert(function, graph.holder()))


def _write_onnx(graph: _Graph, out: Path) -> None:
    try:
        import onnxruntime  # noqa: F401  # it is needed for the check
        import tf2onnx
    except ImportError as error:
        raise OutputError(f"--format onnx: {error.name} is missing; pip install 'ser-batch[onnx]'") from None
    logging.getLogger("tf2onnx").setLevel(logging.ERROR)
    function = graph.concrete()
    path = str(out / _FILES["onnx"])
    tf2onnx.convert.from_function(function, function.input_signature, opset=_ONNX_OPSET, output_path=path)


# Input → probabilities, as NumPy arrays.
_Run = Callable[[Float32s], Float32s]


def _run_saved_model(out: Path) -> _Run:
    loaded = tf.saved_model.load(str(out))
    return lambda values: loaded.signatures["serving_default"](tf.constant(values))["probabilities"].numpy()


def _run_litert(out: Path) -> _Run:
    from ai_edge_litert.interpreter import Interpreter

    run: Any = Interpreter(str(out / _FILES["litert"]), num_threads=1).get_signature_runner()
    return lambda values: run(log_mel=values)["probabilities"]


def _run_onnx(out: Path) -> _Run:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(out / _FILES["onnx"]), providers=["CPUExecutionProvider"])
    return lambda values: session.run(["probabilities"], {session.get_inputs()[0].name: values})[0]


_WRITERS: dict[ExportFormat, Callable[[_Graph, Path], None]] = {
    "saved-model": _write_saved_model,
    "litert": _write_litert,
    "onnx": _write_onnx,
}
_RUNNERS: dict[ExportFormat, Callable[[Path], _Run]] = {
    "saved-model": _run_saved_model,
    "litert": _run_litert,
    "onnx": _run_onnx,
}


def _difference(bundle: Bundle, graph: _Graph, run: _Run) -> float:
    """The largest difference from the bundle's own probabilities, for a test signal."""
    samples = _test_signal(bundle.front_end.rate_hz)
    log_mel = log_mel_at_rate(samples, bundle.front_end)
    arrays = bundle.load_arrays()
    features = arrays.head.features(bundle.load_encoder()(log_mel)[None])
    expected = arrays.probabilities(features, bundle.temperature)[0]
    found = run(samples) if graph.is_waveform else run(log_mel[None])[0]
    return float(np.abs(found - expected).max())


def _test_signal(rate_hz: int) -> Float32s:
    """Two seconds with harmonics of a moving pitch, a syllable rate and a little noise, float32 ``(samples,)``."""
    secs = np.arange(2 * rate_hz) / rate_hz
    phase = 2 * np.pi * np.cumsum(150.0 + 40.0 * np.sin(2 * np.pi * 0.7 * secs)) / rate_hz
    voice: NDArray[np.float64] = sum(np.sin(order * phase) / order for order in range(1, 20))
    noise = np.random.default_rng(0).normal(0.0, 0.003, len(secs))
    signal: Float32s = (0.1 * voice * (1.0 + np.sin(2 * np.pi * 4.0 * secs)) + noise).astype(np.float32)
    return signal


def _description(bundle: Bundle, export_format: ExportFormat, graph: _Graph, difference: float) -> dict[str, Any]:
    shape = (1, *graph.shape[1:]) if export_format == "litert" else graph.shape
    if graph.is_waveform:
        unit = f"mono audio from -1 to 1 at {bundle.front_end.rate_hz} Hz, of any length"
    else:
        unit = f"decibels of the front end, at least {MIN_FRAMES} frames; shorter ones are padded with {PADDING_DB:g}"
    return {
        "kind": "export",
        "format": export_format,
        "file": _FILES[export_format],
        "model": bundle.fingerprint,
        "labels": list(bundle.labels),
        "front_end": bundle.front_end.to_json(),
        "input": {"name": graph.input, "dtype": "float32", "shape": list(shape), "unit": unit},
        "output": {"name": "probabilities", "dtype": "float32"},
        "temperature": bundle.temperature,
        "adaptation": "none",
        "largest_difference": difference,
        "versions": {"ser-batch": __version__, "tensorflow": tf.__version__},
    }


def convert(encoder: keras.Model, path: Path) -> None:
    """Write an encoder for `ser_batch.models.litert.RuntimeEncoder`.

    Args:
        encoder: from log-mels to embeddings.
        path: the file to write, ending in ``.tflite``.
    """
    # With a batch size of one, recurrent layers need only operations that LiteRT has.
    signature = tf.TensorSpec((1, *encoder.inputs[0].shape[1:]), tf.float32, name="log_mel")
    graph = tf.function(lambda one: {"embedding": encoder(one, training=False)}, [signature], autograph=False)
    weights = tf.Module()  # Keras' own model would be traced again, several times
    weights.of_network = [weight.value for weight in encoder.weights]
    path.write_bytes(_litert(graph, weights))


def _litert(function: Any, weights: tf.Module) -> bytes:
    """A LiteRT file of a function with an input signature."""
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function.get_concrete_function()], weights)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    # The converter warns about unknown options, and leaves temporary files in processes that exit without cleanup.
    with native_code_silenced(), temporary_files_removed():
        content: bytes = converter.convert()
    return content
