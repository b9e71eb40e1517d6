"""Report pages: complete, safe for any file name, small for any table, and usable in a browser."""

import base64
import csv
import io
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import soundfile
from PIL import Image

from ser_batch.cli.app import main
from ser_batch.errors import BundleError
from ser_batch.evaluation.evaluate import _write_tables
from ser_batch.evaluation.metrics import score
from ser_batch.inference.examples import LabelledPrediction
from ser_batch.inference.predictions import Prediction
from ser_batch.inference.table import FORMATS, TableForm
from ser_batch.models.bundles import open_bundle, shipped_bundle
from ser_batch.models.calibration import apply_temperature
from ser_batch.records.folder import RecordFolder
from ser_batch.reports.bundle_report import bundle_page
from ser_batch.reports.prediction_report import SHOWN_ROWS
from ser_batch.storage.writing import write_json
from tests.folding import LABELS, made_predictions, written

FORM = TableForm(("anger", "joy", "neutral"))
HOSTILE = '<script>alert("x")</script> & "quotes" \n$math$ ünï 日本.wav'
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")


def row(file: str, best: int = 0, confidence: float = 0.7, **changes: Any) -> Prediction:
    shares = [(1.0 - confidence) / 2] * 3
    shares[best] = confidence
    values = {"end_secs": 2.0, "duration_secs": 2.0, "novelty": 0.5, "speaker": "voice-001"}
    return Prediction(file, probabilities=tuple(shares), **(values | changes))


def table(path: Path, rows: Iterable[Prediction], kind: str = "csv") -> Path:
    with open(path, "wb") as file, FORMATS[kind](file, FORM, "abcdef012345") as append:
        append(rows)
    return path


def report(path: Path, *options: str) -> str:
    """The page of an output, without its downloads."""
    out = path.with_name("report.html")
    assert main(["report", str(path), "-o", str(out), "-q", *options]) == 0
    return re.sub(r'href="data:[^"]*"', "", out.read_text(encoding="utf-8"))


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", page))


def error(capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["report", *map(str, arguments)]) in (1, 2)
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


# --- prediction tables


@pytest.mark.parametrize("kind", list(FORMATS))
def test_a_table_of_any_format_is_counted(tmp_path: Path, kind: str) -> None:
    rows = [row("a.wav", 0, 0.9), row("b.wav", 1, 0.5), row("c.wav", 1, 0.4, warnings=("quiet",))]
    rows.append(Prediction("d.wav", error="holds 0 samples"))
    page = report(table(tmp_path / f"preds.{kind}", rows, kind))
    found = facts(page)
    assert (found["recordings"], found["errors"], found["mean confidence"]) == ("4", "1", "0.60")
    assert (found["audio"], found["model"]) == ("6.0 s", "abcdef012345")
    assert "holds N samples" in page
    assert "very low level" in page
    assert "Timelines" not in page
    assert "do not trust" not in page.lower()


def test_names_are_text_not_markup(tmp_path: Path) -> None:
    rows = [row(HOSTILE, speaker=HOSTILE), row(HOSTILE, 1, start_secs=2.0, end_secs=4.0, speaker=HOSTILE)]
    page = report(table(tmp_path / "preds.csv", [*rows, Prediction(HOSTILE, error=f"'{HOSTILE}' is odd")]))
    assert page.count("<script>") == 1  # the page's own
    assert "&lt;script&gt;alert(&#34;x&#34;)&lt;/script&gt;" in page


def test_unlike_the_training_data_stands_first(tmp_path: Path) -> None:
    rows = [row(f"{number}.wav", novelty=0.99, warnings=("unfamiliar",)) for number in range(3)]
    page = report(table(tmp_path / "preds.csv", rows))
    assert "3 of 3 rows are unlike the training data. Do not trust these predictions." in page


def test_a_table_without_a_prediction(tmp_path: Path) -> None:
    page = report(table(tmp_path / "errors.csv", [Prediction("a.wav", error="holds no samples")] * 2))
    assert (facts(page)["recordings"], facts(page)["errors"]) == ("2", "2")


def test_windows_are_a_timeline(tmp_path: Path) -> None:
    rows = [
        row(f"call-{call}.wav", window % 3, start_secs=5.0 * window, end_secs=5.0 * window + 10.0, duration_secs=60.0)
        for call in range(20)
        for window in range(11)
    ]
    page = report(table(tmp_path / "windows.csv", rows))
    assert (facts(page)["recordings"], facts(page)["windows"], facts(page)["audio"]) == ("20", "220", "20.0 min")
    assert page.count('<div class="strip"') == 12
    assert "The first 12 of 20 recordings are shown." in page
    assert 'title="5.0 to 15.0 s: joy 0.70"' in page
    widths = [float(width) for width in re.findall(r"width:([\d.]+)%", page)]
    assert sum(widths) == pytest.approx(12 * 100, abs=0.5)


def large_table(path: Path, n_rows: int) -> Path:
    rows = (
        row(f"folder/{number:07d}.wav", number % 3, speaker=f"voice-{number % 5000:03d}") for number in range(n_rows)
    )
    return table(path, rows, "parquet")


def test_a_large_table_has_a_small_page(tmp_path: Path) -> None:
    page = report(large_table(tmp_path / "large.parquet", 20_000))
    assert (tmp_path / "report.html").stat().st_size < 1.5e6
    assert f"The first {SHOWN_ROWS:,} of 20,000 rows" in page
    assert "for 300 of 5,000 speakers with the most rows" in page
    assert facts(page)["recordings"] == "20,000"


@pytest.mark.slow
def test_a_million_rows_take_little_memory(tmp_path: Path) -> None:
    path, out = large_table(tmp_path / "large.parquet", 1_000_000), tmp_path / "report.html"
    code = (
        f"from ser_batch.cli.app import main; assert main(['report', {str(path)!r}, '-o', {str(out)!r}, '-q']) == 0; "
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])"  # the largest resident size, in KiB
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 600 << 10
    assert out.stat().st_size < 3e6
    assert facts(out.read_text(encoding="utf-8"))["recordings"] == "1,000,000"


# --- scores


def truth_file(folder: Path, labels: dict[str, str]) -> Path:
    path = folder / "truth.csv"
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "label"), *labels.items()])
    return path


def test_a_table_is_scored_by_true_labels(tmp_path: Path) -> None:
    rows = [row("a.wav", 0), row("b.wav", 1), row("c.wav", 1, 0.9), row("d.wav", 2), row("e.wav", 2)]
    path = table(tmp_path / "preds.csv", [*rows, Prediction("f.wav", error="holds no samples")])
    known = {"a.wav": "anger", "b.wav": "joy", "c.wav": "anger", "d.wav": "rage", "f.wav": "joy", "x.wav": "joy"}
    page = report(path, "--truth", str(truth_file(tmp_path, known)))
    found = facts(page)
    assert (found["UAR"], found["accuracy (WA)"], found["scored recordings"]) == ("0.750", "0.667", "3")
    assert "does not have these labels: rage." in page
    assert "2 files of the table without a true label or a prediction." in page
    assert "2 files of truth.csv without a row of the table." in page
    assert re.search(r"Mistakes.*c\.wav.*anger.*joy.*0\.900", page, re.DOTALL)


def test_true_labels_of_other_files_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = table(tmp_path / "preds.csv", [row("a.wav")])
    truth = truth_file(tmp_path, {"calls/a.wav": "anger"})
    line = error(capfd, path, "-o", tmp_path / "r.html", "--truth", truth)
    assert "has no file of the table with a label of the model (anger, joy, neutral); its files are calls/a.wav" in line
    (tmp_path / "bad.csv").write_text("file,mood\na.wav,anger\n")
    line = error(capfd, path, "-o", tmp_path / "r.html", "--truth", tmp_path / "bad.csv")
    assert "has no column label; it has file, mood: name the columns" in line
    assert not (tmp_path / "r.html").exists()


def test_a_cross_validation(tmp_path: Path) -> None:
    folder = written(tmp_path / "cv", made_predictions())
    rows = [
        f"{seed},{fold},,{epoch},{1.0 / epoch + 0.1 * fold},{0.5 + 0.1 * epoch}"
        for seed in (0, 1)
        for fold in (1, 2)
        for epoch in range(1, 6)
    ]
    (folder / "history.csv").write_text("\n".join(["seed,fold,part,epoch,loss,accuracy", *rows, ""]))
    page = report(folder, "--figures", str(tmp_path / "figures"))
    assert {"UAR", "95 % interval", "calibration error", "seeds"} <= facts(page).keys()
    assert facts(page)["seeds"] == "2"
    for label in LABELS:
        assert f">{label}</td>" in page
    assert "Counts are over all 2 seeds." in page
    before, after = (facts(page)[name] for name in ("before calibration", "calibration error"))
    assert f"Expected calibration error: before calibration {before}, after calibration {after}" in page
    assert float(before) > 2 * float(after)
    names = sorted(path.name for path in (tmp_path / "figures").iterdir())
    shown = ("confusion", "network-accuracy", "network-loss", "novelty", "reliability", "speaker-uar")
    assert names == [f"{name}.{kind}" for name in shown for kind in ("png", "svg")]
    assert "The mean of 4 trainings, with a thin line for each" in page
    assert "Loss of the network after each epoch, mean of all trainings; last: training 0.350" in page
    with Image.open(tmp_path / "figures" / "confusion.png") as picture:
        assert min(picture.size) > 500


def test_a_cross_validation_of_an_earlier_version(tmp_path: Path) -> None:
    """It has no history and no novelty."""
    folder = written(tmp_path / "cv", made_predictions())
    rows = pd.read_csv(folder / "predictions.csv", dtype=str, keep_default_na=False)
    rows.drop(columns="novelty").to_csv(folder / "predictions.csv", index=False)
    page = report(folder)
    assert "Novelty" not in page
    assert "after each epoch" not in page
    assert facts(page)["seeds"] == "2"


def test_a_damaged_history_is_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    folder = written(tmp_path / "cv", made_predictions())
    (folder / "history.csv").write_text("seed,fold,part,epoch,loss\n0,1,,1,high\n")
    line = error(capfd, folder, "-o", tmp_path / "r.html")
    assert "history.csv: damaged" in line
    assert "run cross-validate again with --restart" in line


def test_two_cross_validations_are_compared(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a = written(tmp_path / "a", made_predictions(skill=0.5))
    b = written(tmp_path / "b", made_predictions(skill=3.0))
    assert main(["compare", str(a), str(b)]) == 0
    conclusion = capfd.readouterr().out.splitlines()[-1]
    page = report(a, str(b), "--figures", str(tmp_path / "figures"))
    assert conclusion in page
    assert float(facts(page)["UAR: B - A"]) > 0.1
    assert "B is better for 6 and worse for 0" in page
    assert (tmp_path / "figures" / "speaker-differences.png").exists()
    other = written(tmp_path / "c", made_predictions(n=60))
    assert "different recordings" in error(capfd, a, other, "-o", tmp_path / "r.html")


@pytest.fixture
def scored_table(tmp_path: Path, emodb_sample: Path) -> tuple[Path, Path]:
    """A prediction table with mistakes on real recordings, one of which is missing; and the true labels."""
    rows = [row(path.name, 0) for path in sorted(emodb_sample.glob("*.wav"))[:3]]
    path = table(tmp_path / "preds.csv", [*rows, row("gone.wav", 1)])
    return path, truth_file(tmp_path, {**{one.file: "joy" for one in rows}, "gone.wav": "anger"})


def test_mistakes_have_their_audio(scored_table: tuple[Path, Path], emodb_sample: Path, tmp_path: Path, capfd) -> None:
    path, truth = scored_table
    page = report(path, "--truth", str(truth), "--audio", str(emodb_sample))
    clips = re.findall(r'<audio [^>]*src="data:audio/ogg;base64,([^"]+)" aria-label="([^"]+)"', page)
    assert [name.split(":")[0] for _, name in clips] == [one.name for one in sorted(emodb_sample.glob("*.wav"))[:3]]
    assert "1 recording of 4 cannot be read." in page
    for (data, name), spoken in zip(clips, sorted(emodb_sample.glob("*.wav")), strict=False):
        samples, rate_hz = soundfile.read(io.BytesIO(base64.b64decode(data)))
        original, _ = soundfile.read(spoken)
        assert len(samples) / rate_hz == pytest.approx(len(original) / 16_000, abs=0.05), name
        # The codec keeps the sound: the loudness over time is the same.
        n = min(len(original), len(samples)) // 400
        levels = [np.square(one[: n * 400].reshape(n, 400)).mean(axis=1) ** 0.5 for one in (original, samples)]
        assert np.corrcoef(*levels)[0, 1] > 0.95
    line = error(capfd, path, "-o", tmp_path / "r.html", "--truth", truth, "--audio", tmp_path / "none")
    assert "no such folder; give the folder of the recordings" in line
    line = error(capfd, path, "-o", tmp_path / "r.html", "--audio", emodb_sample)
    assert "is for a bundle, an evaluation, a cross-validation, or with --truth" in line


def test_records_and_an_evaluation_of_them(tmp_path: Path, emodb_sample: Path) -> None:
    shutil.copytree(emodb_sample, tmp_path / "wav")
    (tmp_path / "wav" / "03a01Xx.wav").write_text("no audio")
    records, evaluation = tmp_path / "records", tmp_path / "evaluation"
    assert main(["build-records", str(tmp_path / "wav"), "-o", str(records), "-q", "--labels", "emodb"]) == 3
    page = report(records)
    assert (facts(page)["recordings"], facts(page)["errors"], facts(page)["labels"]) == ("14", "1", "7")
    assert "Log-mel spectrogram of one recording of each label" in page
    assert "1 recording that cannot be used" in page
    command = ["evaluate", str(shipped_bundle().path), str(records), "-o", str(evaluation), "--split", "train", "-q"]
    assert main(command) == 0
    page = report(evaluation)
    assert facts(page)["model"] == shipped_bundle().fingerprint[:12]
    assert 0.5 < float(facts(page)["UAR"]) <= 1
    assert "split train" in page
    assert "UAR of each speaker" in page
    with open(evaluation / "predictions.csv", encoding="utf-8", newline="") as file:
        speakers = Counter(one["speaker"] for one in csv.DictReader(file))
    for speaker, count in speakers.items():
        assert re.search(rf">{speaker}</td><td[^>]*>{count}</td>", page)
    assert "No wrong predictions" in report(evaluation, "--records", str(records))


def test_a_bundle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Path(shutil.copytree(shipped_bundle().path, tmp_path / "bundle"))
    (bundle / "history.csv").write_text(
        "epoch,loss,val_loss,accuracy,val_accuracy\n1,2.0,1.9,.3,.35\n2,1.5,1.6,.6,.5\n"
    )
    page = report(bundle)
    assert facts(page)["fingerprint"] == shipped_bundle().short_fingerprint
    assert "last: training 1.500, validation 1.600" in page
    assert "recipe: learning rate" in page
    assert "Confusion matrix" not in page  # the shipped model has no validation split
    monkeypatch.chdir(tmp_path)
    assert facts(report(Path("shipped"))) == facts(page)


def test_a_bundle_has_the_scores_of_its_validation_split(tmp_path: Path, emodb_sample: Path) -> None:
    records, bundle = tmp_path / "records", tmp_path / "bundle"
    assert main(["build-records", str(emodb_sample), "-o", str(records), "-q"]) == 0
    command = ["train", str(records), "-o", str(bundle), "--recipe", "functionals", "--epochs", "1", "-q"]
    assert main(command) == 0
    with open(bundle / "validation.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    labels = open_bundle(bundle).labels
    right = [row["label"] == max(labels, key=lambda label: float(row[f"p_{label}"])) for row in rows]
    shown = [[float(row[f"p_{label}"]) for label in labels] for row in rows]
    evaluation = tmp_path / "evaluation"
    assert main(["evaluate", str(bundle), str(records), "-o", str(evaluation), "--split", "validation", "-q"]) == 0
    with open(evaluation / "predictions.csv", encoding="utf-8", newline="") as file:
        evaluated = list(csv.DictReader(file))
    assert [(row["file"], row["start"], row["label"]) for row in rows] == [
        (row["file"], row["start"], row["label"]) for row in evaluated
    ]
    expected = [[float(row[f"p_{label}"]) for label in labels] for row in evaluated]
    np.testing.assert_allclose(apply_temperature(shown, open_bundle(bundle).temperature), expected, atol=1e-3)
    page = report(bundle, "--records", str(records))
    assert facts(page)["validation recordings"] == str(len(rows))
    assert facts(page)["validation accuracy (WA)"] == f"{sum(right) / len(rows):.3f}"
    assert "Confusion matrix" in page
    assert page.count('aria-label="Log-mel spectrogram: ') == right.count(False) > 0
    assert "<audio" not in page
    (bundle / "validation.csv").write_text("file\n")
    with pytest.raises(BundleError, match=r"validation\.csv: is damaged"):
        bundle_page(bundle)


def test_what_is_no_output_is_one_line(
    tmp_path: Path, small_records: RecordFolder, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "r.html"
    assert "no such file or folder" in error(capfd, tmp_path / "none", "-o", page)
    (tmp_path / "notes.txt").write_text("file,emotion\na.wav,anger\n")
    assert "is not a prediction table" in error(capfd, tmp_path / "notes.txt", "-o", page)
    path = table(tmp_path / "preds.csv", [row("a.wav")])
    assert "end the name with .html" in error(capfd, path, "-o", tmp_path / "r.pdf")
    assert "missing" in error(capfd, path, "-o", tmp_path / "none" / "r.html")
    assert "is for prediction tables" in error(capfd, small_records.path, "-o", page, "--truth", path)
    content = path.read_text().replace("0.700000", "many", 1)
    path.write_text(content)
    assert "row 1 is damaged (could not convert string to float: 'many')" in error(capfd, path, "-o", page)
    assert not page.exists()


def test_downloads_hold_what_is_shown(tmp_path: Path) -> None:
    path = table(tmp_path / "preds.csv", [row("a.wav"), row("b,c.wav", 1)])
    report(path)
    page = path.with_name("report.html").read_text(encoding="utf-8")
    (data,) = re.findall(r'href="data:text/csv;base64,([^"]*)" download="rows.csv"', page)
    rows = list(csv.reader(base64.b64decode(data).decode().splitlines()))
    assert [one[0] for one in rows] == ["file", "a.wav", "b,c.wav"]


# --- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("install Chromium (Debian: apt-get install chromium) to open the pages in a browser")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]
        )
        yield opened
        opened.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_page_sorts_filters_and_changes_its_theme(tmp_path: Path, browser: Any, scheme: str) -> None:
    rows = [row(f"{number}.wav", number % 3, 0.4 + 0.05 * number, novelty=0.1 * number) for number in range(10)]
    path = table(tmp_path / "preds.csv", [*rows, row(HOSTILE, 1), Prediction("z.wav", error="holds no samples")])
    report(path)
    page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme=scheme)
    problems: list[str] = []
    requests: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.on("pageerror", lambda problem: problems.append(str(problem)))
    page.on("request", lambda request: requests.append(request.url))
    page.goto(path.with_name("report.html").as_uri())

    def shown(column: int) -> list[str]:
        cells = page.locator(f"#rows tbody tr:visible td:nth-child({column})")
        found: list[str] = cells.all_inner_texts()
        return found

    assert len(shown(1)) == 12
    page.get_by_role("button", name="confidence").last.click()
    ascending = [float(text) for text in shown(4) if text]
    assert ascending == sorted(ascending)
    assert shown(4)[-1] == ""  # an error has no confidence, and is last in both orders
    page.get_by_role("button", name="confidence").last.click()
    assert [float(text) for text in shown(4) if text] == ascending[::-1]
    assert page.locator("#rows th[aria-sort]").get_attribute("aria-sort") == "descending"
    page.locator('select[data-filter="emotion"]').select_option("joy")
    assert set(shown(3)) == {"joy"}
    page.get_by_label("Find").fill("4.wav")
    assert shown(1) == ["4.wav"]
    assert "1 of 12 rows" in page.locator("[data-count]").inner_text()

    def background() -> str:
        colour: str = page.evaluate("getComputedStyle(document.body).backgroundColor")
        return colour

    before = background()
    page.get_by_role("button", name="Dark or light").click()
    assert background() != before
    page.get_by_role("button", name="Dark or light").click()
    assert background() == before
    assert page.evaluate("document.documentElement.scrollWidth") <= 390  # nothing is wider than a phone
    assert problems == []
    assert requests == [page.url]
    page.close()


def test_every_kind_of_page_opens_on_a_phone(tmp_path: Path, small_records: RecordFolder, browser: Any) -> None:
    windows = [
        row("call.wav", part % 3, start_secs=5.0 * part, end_secs=5.0 * part + 10.0, duration_secs=60.0)
        for part in range(11)
    ]
    outputs = [
        Path(shutil.copytree(small_records.path, tmp_path / "records")),
        Path(shutil.copytree(shipped_bundle().path, tmp_path / "bundle")),
        written(tmp_path / "cv", made_predictions()),
        evaluated(tmp_path / "evaluation", small_records),
        table(tmp_path / "windows.csv", windows),
    ]
    problems: list[str] = []
    requests: list[str] = []
    for output in outputs:
        report(output)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda problem: problems.append(str(problem)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(output.with_name("report.html").as_uri())
        assert page.locator("h1").inner_text()
        assert page.locator("main section").count() >= 1
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        page.locator("th button").first.click()
        assert page.locator("th[aria-sort]").count() == 1
        page.close()
    assert problems == []
    assert set(requests) == {(tmp_path / "report.html").as_uri()}


def test_a_clip_plays(scored_table: tuple[Path, Path], emodb_sample: Path, browser: Any) -> None:
    path, truth = scored_table
    report(path, "--truth", str(truth), "--audio", str(emodb_sample))
    page = browser.new_page(viewport={"width": 390, "height": 800})
    problems: list[str] = []
    page.on("console", lambda message: problems.append(message.text))
    page.goto(path.with_name("report.html").as_uri())
    played = page.evaluate(
        """async () => {
          const player = document.querySelector("audio");
          await player.play();
          await new Promise(done => setTimeout(done, 500));
          return [player.currentTime, player.duration];
        }"""
    )
    assert played[0] > 0.1
    assert 1 < played[1] < 10
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert problems == []
    page.close()


def test_print_has_all_tables_and_no_controls(tmp_path: Path, browser: Any) -> None:
    report(written(tmp_path / "cv", made_predictions()))
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator("nav").is_visible()
    page.emulate_media(media="print")
    assert not page.locator("nav").is_visible()
    assert page.locator("table:visible").count() == page.locator("table").count() >= 3
    assert page.pdf().startswith(b"%PDF")
    page.close()


def evaluated(out: Path, records: RecordFolder) -> Path:
    """An evaluation of made predictions of the records' examples."""
    names = [row["file"] for part in records.manifest("file") for row in part.to_pylist()]
    labels = records.labels
    shares = np.random.default_rng(0).dirichlet(np.ones(len(labels)), len(names)).tolist()
    rows = [
        LabelledPrediction("03", place % len(labels), Prediction(name, 0.0, 2.0, tuple(one)))
        for place, (name, one) in enumerate(zip(names, shares, strict=True))
    ]
    scores = score([one.label for one in rows], [one.prediction.best for one in rows], labels)
    out.mkdir()
    _write_tables(out, rows, scores, labels)
    write_json(out / "scores.json", {"model": "0" * 64, "records": "0" * 64, "split": "test"} | scores.to_json())
    return out


def test_text_is_legible_on_every_background(tmp_path: Path, browser: Any) -> None:
    """Contrast of at least 4.5 (WCAG AA), in both themes."""
    rows = [row(f"{number}.wav", number % 3, novelty=0.99, warnings=("unfamiliar",)) for number in range(4)]
    report(table(tmp_path / "preds.csv", rows))

    def luminance(colour: str) -> float:
        channels = np.array([int(value) for value in re.findall(r"\d+", colour)[:3]]) / 255
        linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
        return float(linear @ [0.2126, 0.7152, 0.0722])

    for scheme in ("light", "dark"):
        page = browser.new_page(color_scheme=scheme)
        page.goto((tmp_path / "report.html").as_uri())
        pairs = page.evaluate(
            """() => [...document.querySelectorAll("p, dt, dd, th, td, figcaption, caption, a, h1, label")].map(one => {
                let ground = one;
                while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)") ground = ground.parentElement;
                return [getComputedStyle(one).color, getComputedStyle(ground).backgroundColor, one.textContent];
            })"""
        )
        assert len(pairs) > 30
        for text, ground, content in pairs:
            low, high = sorted((luminance(text), luminance(ground)))
            assert (high + 0.05) / (low + 0.05) >= 4.5, (scheme, content, text, ground)
        page.close()
