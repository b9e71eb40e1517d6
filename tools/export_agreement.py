"""Compare exported models with `infer --adapt none`, for each recipe and format.

    python tools/export_agreement.py tests/data/emodb work/

Trains the recipes `default` and `seed` for two epochs on the recordings (a folder of labelled files at 16 kHz), and
exports them and the shipped model. Prints a Markdown table of the largest difference of a probability.
"""

import argparse
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import librosa
import numpy as np
import soundfile
from numpy.typing import NDArray

from ser_batch import api
from ser_batch.audio.logmels import log_mel
from ser_batch.models.bundles import Bundle, open_bundle, shipped_bundle
from ser_batch.notebooks import read_predictions
from ser_batch.runtime.process import prepare_tensorflow

FORMATS = ("saved-model", "litert", "onnx")


def bundle_of(recipe: str, recordings: Path, work: Path) -> Bundle:
    """A bundle of the recipe; of `functionals`, the shipped model."""
    if recipe == "functionals":
        return shipped_bundle()
    front_end = "seed" if recipe == "seed" else "speech"
    api.build_records(recordings, work / f"records-{front_end}", front_end=front_end)
    api.train(work / f"records-{front_end}", work / f"bundle-{recipe}", recipe=recipe, epochs=2)
    return open_bundle(work / f"bundle-{recipe}")


def runner(folder: Path, name: str) -> Callable[[NDArray[np.float32]], Any]:
    """From a log-mel or a waveform to probabilities ``(labels,)``."""
    if name == "litert":
        from ai_edge_litert.interpreter import Interpreter

        run: Any = Interpreter(str(folder / "model.tflite")).get_signature_runner()
        return lambda values: run(log_mel=values[None])["probabilities"][0]
    if name == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(str(folder / "model.onnx"))
        return lambda values: session.run(None, {"log_mel": values[None]})[0][0]
    import tensorflow as tf

    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    if name == "waveform":
        return lambda values: serve(waveform=tf.constant(values))["probabilities"].numpy()
    return lambda values: serve(log_mel=tf.constant(values[None]))["probabilities"].numpy()[0]


def main() -> None:
    """Export, run, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", type=Path, help="a folder of labelled recordings")
    parser.add_argument("work", type=Path, help="folder for records, bundles and exports; it is deleted first")
    options = parser.parse_args()
    prepare_tensorflow(verbose=False)
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    print("| recipe | " + " | ".join([*FORMATS, "saved-model --waveform"]) + " |")
    print("| --- |" + " ---: |" * (len(FORMATS) + 1))
    for recipe in ("functionals", "default", "seed"):
        bundle = bundle_of(recipe, options.recordings, options.work)
        table = options.work / f"{recipe}.parquet"
        api.infer(options.recordings, table, model=bundle.path, adapt="none")
        frame = read_predictions(table)
        expected = frame[[f"p_{label}" for label in bundle.labels]].to_numpy()
        cells = []
        for name in [*FORMATS, "waveform"]:
            folder, is_waveform = options.work / f"{recipe}-{name}", name == "waveform"
            chosen = "saved-model" if is_waveform else name
            api.export(bundle.path, folder, export_format=chosen, waveform=is_waveform)
            run, worst = runner(folder, name), 0.0
            for file, row in zip(frame["file"], expected, strict=True):
                samples, rate_hz = soundfile.read(options.recordings / file, dtype="float32")
                if is_waveform:
                    target_hz = bundle.front_end.rate_hz
                    given = librosa.resample(samples, orig_sr=rate_hz, target_sr=target_hz)
                else:
                    given = log_mel(samples, rate_hz, bundle.front_end)
                worst = max(worst, float(np.abs(run(given) - row).max()))
            cells.append(f"{worst:.0e}")
        print(f"| `{recipe}` | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
