"""File naming schemes of known corpora: label and speaker from the file name."""

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

# From a recording's key to its label and speaker, or the reason that it has none.
NamingRule = Callable[[str], tuple[str, str | None] | str]


@dataclass(frozen=True)
class Corpus:
    """The file naming scheme of a corpus.

    Attributes:
        title: the corpus' name, for messages.
        pattern: matches the end of a path without extension; groups ``label`` and ``speaker``.
        labels: code in the file name to label.
        source: publication that documents the scheme.
    """

    title: str
    pattern: str
    labels: Mapping[str, str]
    source: str


CORPORA = {
    "emodb": Corpus(
        "EmoDB",
        r"(?P<speaker>\d\d)[ab]\d\d(?P<label>[A-Z])[a-z]",
        {
            "W": "anger",
            "L": "boredom",
            "E": "disgust",
            "A": "fear",
            "F": "happiness",
            "T": "sadness",
            "N": "neutral",
        },
        "Burkhardt et al., A Database of German Emotional Speech, Interspeech 2005",
    ),
    "ravdess": Corpus(
        "RAVDESS",
        r"\d\d-\d\d-(?P<label>\d\d)-\d\d-\d\d-\d\d-(?P<speaker>\d\d)",
        {
            "01": "neutral",
            "02": "calm",
            "03": "happiness",
            "04": "sadness",
            "05": "anger",
            "06": "fear",
            "07": "disgust",
            "08": "surprise",
        },
        "Livingstone & Russo, PLoS ONE 13(5), 2018, 10.1371/journal.pone.0196391",
    ),
    "crema-d": Corpus(
        "CREMA-D",
        r"(?P<speaker>1\d{3})_[A-Z]{3}_(?P<label>[A-Z]{3})_(?:LO|MD|HI|XX|X)",
        {
            "ANG": "anger",
            "DIS": "disgust",
            "FEA": "fear",
            "HAP": "happiness",
            "NEU": "neutral",
            "SAD": "sadness",
        },
        "Cao et al., IEEE Trans. Affective Computing 5(4), 2014, 10.1109/TAFFC.2014.2336244",
    ),
    "tess": Corpus(
        "TESS",
        r"(?P<speaker>OAF?|YAF)_[a-z]+_(?P<label>[a-z]+)",
        {
            "angry": "anger",
            "disgust": "disgust",
            "fear": "fear",
            "happy": "happiness",
            "ps": "surprise",
            "sad": "sadness",
            "neutral": "neutral",
        },
        "Pichora-Fuller & Dupuis, Toronto emotional speech set, 2020, 10.5683/SP2/E8H2MF",
    ),
    "savee": Corpus(
        "SAVEE",
        r"(?P<speaker>DC|JE|JK|KL)[_/](?P<label>[a-z]{1,2})\d\d",
        {
            "a": "anger",
            "d": "disgust",
            "f": "fear",
            "h": "happiness",
            "n": "neutral",
            "sa": "sadness",
            "su": "surprise",
        },
        "Haq & Jackson, Surrey Audio-Visual Expressed Emotion, AVSP 2009",
    ),
    "emovo": Corpus(
        "EMOVO",
        r"(?P<label>[a-z]{3})-(?P<speaker>[fm]\d)-[bnld]\d",
        {
            "neu": "neutral",
            "dis": "disgust",
            "gio": "happiness",
            "pau": "fear",
            "rab": "anger",
            "sor": "surprise",
            "tri": "sadness",
        },
        "Costantini et al., EMOVO corpus, LREC 2014",
    ),
}

# In TESS, the files of one actress begin with OA_ for one word and with OAF_ for all others.
_SAME_SPEAKER = {"tess": {"OA": "OAF"}}


def corpus_rule(name: str) -> NamingRule:
    """The naming rule of a known corpus."""
    corpus = CORPORA[name]
    pattern = re.compile(rf"(?:^|/){corpus.pattern}$")
    same_speaker = _SAME_SPEAKER.get(name, {})

    def rule(file: str) -> tuple[str, str | None] | str:
        match = pattern.search(os.path.splitext(file)[0])
        if match is None:
            return f"does not match the file names of {corpus.title}"
        if match["label"] not in corpus.labels:
            return f"has the code {match['label']!r}, which {corpus.title} does not use"
        return corpus.labels[match["label"]], same_speaker.get(match["speaker"], match["speaker"])

    return rule
