"""The report page of a comparison of two cross-validations."""

from __future__ import annotations

from pathlib import Path

from ser_batch.evaluation.compare import Difference, ModelComparison, compare
from ser_batch.evaluation.folders import read_validation_summary
from ser_batch.reports.drawing import differences
from ser_batch.reports.page import Cell, Page, Picture, Section, Table
from ser_batch.reports.text import conclusion

_SHOWN_SPEAKERS = 60
_LISTED_SPEAKERS = 300


def comparison_page(folder_a: Path, folder_b: Path) -> Page:
    """The page of a comparison of B with A.

    Raises:
        SourceError: one is missing, unfinished or not a cross-validation, or their recordings differ.
    """
    found = compare(folder_a, folder_b)
    facts = [
        *_facts("UAR", found.uar),
        *_facts("WA", found.wa),
        ("recordings", f"{found.recordings:,}"),
        (found.over, f"{found.units:,}"),
        ("seeds of A, B", f"{found.seeds_a}, {found.seeds_b}"),
    ]
    warnings = [f"The cross-validations have different options: {'; '.join(found.task_differences)}."]
    titles = [
        f"{name}: {folder} ({read_validation_summary(folder)['title']})."
        for name, folder in (("A", folder_a), ("B", folder_b))
    ]
    sentence = conclusion(found)
    text = [
        sentence[0].upper() + sentence[1:] + ".",
        *titles,
        "Intervals are 95 %, from a paired bootstrap; p is from a paired permutation test.",
    ]
    rows: list[list[Cell]] = [
        [name, one.a, one.b, one.b - one.a, one.low, one.high, one.p]
        for name, one in (("UAR", found.uar), ("WA", found.wa))
    ]
    columns = ["score", "A", "B", "B - A", "from", "to", "p"]
    table = Table("comparison", "Scores, their difference and its 95 % interval", columns, rows, {"p": 4})
    sections = [Section("Difference", text, tables=[table])]
    if found.speakers:
        sections.append(_speakers(found))
    subtitle = f"A: {folder_a.name}, B: {folder_b.name}"
    return Page("Comparison", subtitle, warnings if found.task_differences else [], facts, sections)


def _facts(name: str, one: Difference) -> list[tuple[str, str]]:
    return [(f"{name} of A, B", f"{one.a:.3f}, {one.b:.3f}"), (f"{name}: B - A", f"{one.b - one.a:+.3f}")]


def _speakers(found: ModelComparison) -> Section:
    ranked = sorted(found.speakers, key=lambda pair: (pair.uar_b - pair.uar_a, pair.name))
    rows: list[list[Cell]] = [
        [one.name, one.recordings, one.uar_a, one.uar_b, one.uar_b - one.uar_a, one.wa_a, one.wa_b] for one in ranked
    ]
    caption = "Scores of each speaker, the greatest loss first"
    if len(rows) > _LISTED_SPEAKERS:
        caption += f", {_LISTED_SPEAKERS} of {len(rows):,}"
    columns = ["speaker", "recordings", "UAR A", "UAR B", "B - A", "WA A", "WA B"]
    table = Table("speakers", caption, columns, rows[:_LISTED_SPEAKERS])
    shown = ranked if len(ranked) <= _SHOWN_SPEAKERS else [*ranked[:30], *ranked[-30:]]
    better = sum(one.uar_b > one.uar_a for one in ranked)
    worse = sum(one.uar_b < one.uar_a for one in ranked)
    picture = Picture(
        "speaker-differences",
        f"UAR of each speaker in A and B: B is better for {better} and worse for {worse}",
        f"UAR of {len(shown)} speakers in A and B; B is better for {better} and worse for {worse} of {len(ranked)}",
        lambda: differences([one.name for one in shown], [(one.uar_a, one.uar_b) for one in shown], "UAR"),
        table,
    )
    return Section("Speakers", pictures=[picture], tables=[table])
