import re
from collections import Counter

import pytest

from ser_batch.corpus.labels import DROP, MISSING_VALUE_WORDS, label_recordings, name_speakers, read_label_map
from ser_batch.corpus.naming_schemes import CORPORA, corpus_rule
from ser_batch.corpus.sources import list_source
from ser_batch.corpus.table import Listing, Recording, Rejection, make_table, recordings
from ser_batch.errors import LabelError, UsageError

EMODB_SAMPLE_LABELS = {
    "03a01Fa.wav": ("happiness", "03"),
    "03a01Wa.wav": ("anger", "03"),
    "08a02La.wav": ("boredom", "08"),
    "08b01Fd.wav": ("happiness", "08"),
    "09a01Ea.wav": ("disgust", "09"),
    "10a07Ad.wav": ("fear", "10"),
    "10b02La.wav": ("boredom", "10"),
    "11a02Tc.wav": ("sadness", "11"),
    "12a02Ac.wav": ("fear", "12"),
    "13a02Wa.wav": ("anger", "13"),
    "14a05Na.wav": ("neutral", "14"),
    "15a01Nb.wav": ("neutral", "15"),
    "16a04Ea.wav": ("disgust", "16"),
    "16b03Ta.wav": ("sadness", "16"),
}


def listing(*files, **columns):
    table = make_table(Recording(file, f"/in/{file}", **columns) for file in files)
    return Listing(table, has_columns=frozenset(columns))


def labels(labelled):
    return {recording.file: (recording.label, recording.speaker) for recording in recordings(labelled.recordings)}


@pytest.mark.parametrize(
    ("corpus", "file", "label", "speaker"),
    [
        ("emodb", "03a01Fa.wav", "happiness", "03"),
        ("emodb", "wav/16b10Wb.wav", "anger", "16"),
        ("emodb", "x/12a05Lb.flac", "boredom", "12"),
        ("ravdess", "Actor_12/03-01-06-01-02-01-12.wav", "fear", "12"),
        ("ravdess", "03-01-01-01-01-01-01.wav", "neutral", "01"),
        ("ravdess", "02-02-08-01-01-01-24.mp4", "surprise", "24"),
        ("crema-d", "1001_DFA_ANG_XX.wav", "anger", "1001"),
        ("crema-d", "AudioWAV/1091_IEO_SAD_HI.wav", "sadness", "1091"),
        ("crema-d", "1040_ITH_SAD_X.wav", "sadness", "1040"),
        ("tess", "OAF_angry/OAF_back_angry.wav", "anger", "OAF"),
        ("tess", "OA_bite_neutral.wav", "neutral", "OAF"),
        ("tess", "YAF_pleasant_surprised/YAF_home_ps.wav", "surprise", "YAF"),
        ("savee", "DC_sa03.wav", "sadness", "DC"),
        ("savee", "AudioData/KL/su15.wav", "surprise", "KL"),
        ("savee", "JE/a01.wav", "anger", "JE"),
        ("emovo", "f1/rab-f1-b1.wav", "anger", "f1"),
        ("emovo", "gio-m3-l4.wav", "happiness", "m3"),
    ],
)
def test_documented_names(corpus, file, label, speaker):
    assert labels(label_recordings(listing(file), corpus)) == {file: (label, speaker)}


@pytest.mark.parametrize(
    ("corpus", "file"),
    [
        ("emodb", "03a01F.wav"),
        ("emodb", "x03a01Fa.wav"),
        ("emodb", "03a01Fa-copy.wav"),
        ("emodb", "03c01Fa.wav"),
        ("ravdess", "03-01-06-01-02-01.wav"),
        ("ravdess", "003-01-06-01-02-01-12.wav"),
        ("crema-d", "1001_DFA_ANG.wav"),
        ("crema-d", "2001_DFA_ANG_XX.wav"),
        ("tess", "OAF_back.wav"),
        ("tess", "MAF_back_angry.wav"),
        ("savee", "ZZ_a01.wav"),
        ("savee", "a01.wav"),
        ("emovo", "rab-x1-b1.wav"),
    ],
)
def test_names_that_do_not_match(corpus, file):
    reason = corpus_rule(corpus)(file)
    assert isinstance(reason, str)
    assert CORPORA[corpus].title in reason


@pytest.mark.parametrize(
    ("corpus", "file", "code"),
    [("emodb", "03a01Xa.wav", "X"), ("ravdess", "03-01-09-01-02-01-12.wav", "09"), ("emovo", "abc-f1-b1.wav", "abc")],
)
def test_a_code_that_the_corpus_does_not_use_is_named(corpus, file, code):
    assert f"'{code}'" in corpus_rule(corpus)(file)


def test_emodb_sample(emodb_sample):
    labelled = label_recordings(list_source(str(emodb_sample)))
    assert labels(labelled) == EMODB_SAMPLE_LABELS
    assert labelled.rejections == []
    assert labelled.rule == "emodb names"


def test_the_whole_of_emodb(emodb):
    labelled = label_recordings(list_source(str(emodb)))
    assert Counter(recording.label for recording in recordings(labelled.recordings)) == {
        "anger": 127,
        "boredom": 81,
        "disgust": 46,
        "fear": 69,
        "happiness": 71,
        "sadness": 62,
        "neutral": 79,
    }
    assert len({recording.speaker for recording in recordings(labelled.recordings)}) == 10


@pytest.mark.parametrize("corpus", CORPORA)
def test_auto_finds_no_other_corpus(corpus):
    examples = {
        "emodb": "03a01Fa.wav",
        "ravdess": "03-01-06-01-02-01-12.wav",
        "crema-d": "1001_DFA_ANG_XX.wav",
        "tess": "OAF_back_angry.wav",
        "savee": "DC_sa03.wav",
        "emovo": "rab-f1-b1.wav",
    }
    assert label_recordings(listing(examples[corpus])).rule == f"{corpus} names"


class TestAuto:
    def test_a_scheme_when_most_names_match_and_the_rest_are_rows(self):
        labelled = label_recordings(listing("03a01Fa.wav", "08a01Wa.wav", "odd.wav"))
        assert labels(labelled) == {"03a01Fa.wav": ("happiness", "03"), "08a01Wa.wav": ("anger", "08")}
        assert [(r.file, r.stage) for r in labelled.rejections] == [("odd.wav", "label")]

    def test_folders_when_half_or_fewer_match(self):
        labelled = label_recordings(listing("happy/03a01Fa.wav", "sad/x.wav"))
        assert labels(labelled) == {"happy/03a01Fa.wav": ("happy", None), "sad/x.wav": ("sad", None)}
        assert labelled.rule == "folders"

    def test_columns_win_over_names(self):
        labelled = label_recordings(listing("03a01Fa.wav", label="calm"))
        assert labels(labelled) == {"03a01Fa.wav": ("calm", None)}
        assert labelled.rule == "columns"

    def test_a_row_without_a_label_beside_rows_with_one(self):
        mixed = Listing(
            make_table([Recording("a.wav", "a.wav", label="calm"), Recording("x/b.wav", "x/b.wav")]),
            has_columns=frozenset({"file", "label"}),
        )
        labelled = label_recordings(mixed)
        assert labels(labelled) == {"a.wav": ("calm", None)}
        assert [r.file for r in labelled.rejections] == ["x/b.wav"]

    def test_a_flat_folder_is_told_the_three_ways(self):
        with pytest.raises(LabelError, match=r"folder per class.*emodb.*CSV.*--labels"):
            label_recordings(listing("a.wav", "b.wav"))


class TestFolders:
    def test_the_root_is_never_a_class(self, tmp_path):
        root = tmp_path / "anger"
        (root / "calm").mkdir(parents=True)
        (root / "fear").mkdir()
        for name in ("a.wav", "calm/b.wav", "fear/c.wav"):
            (root / name).touch()
        labelled = label_recordings(list_source(str(root)), "folder")
        assert labels(labelled) == {"calm/b.wav": ("calm", None), "fear/c.wav": ("fear", None)}
        assert [(r.file, r.stage) for r in labelled.rejections] == [("a.wav", "label")]

    @pytest.mark.parametrize("rule", ["auto", "folder"])
    def test_nothing_but_the_root_is_no_labels(self, tmp_path, rule):
        (tmp_path / "anger").mkdir()
        (tmp_path / "anger/a.wav").touch()
        with pytest.raises(LabelError, match="no labels found"):
            label_recordings(list_source(str(tmp_path / "anger")), rule)


def tree(*folders):
    """Two recordings in each folder."""
    return listing(*(f"{folder}/{number}.wav" for folder in folders for number in (1, 2)))


def named(labelled):
    """Labels, speakers and splits by folder."""
    return {r.file.rpartition("/")[0]: (r.label, r.speaker, r.split) for r in recordings(labelled.recordings)}


@pytest.mark.parametrize("rule", ["auto", "folder"])
class TestFoldersInFolders:
    def test_class_above_speaker(self, rule):
        folders = [f"{emotion}/{name}" for emotion in ("happy", "sad", "other") for name in ("anna", "bert")]
        labelled = label_recordings(tree(*folders), rule)
        assert named(labelled) == {folder: (folder.partition("/")[0], None, None) for folder in folders}
        (note,) = labelled.notes
        assert note.startswith("the folders anna, bert are not used; if they are speakers, give --labels 'regex:")

    @pytest.mark.parametrize("folders", ["happy/train sad/Test", "train/happy test/sad more/sad"])
    def test_splits_that_are_not_taken_are_not_called_speakers(self, rule, folders):
        (note,) = label_recordings(tree(*folders.split()), rule).notes
        assert "are not used; if they are splits, give --labels 'regex:" in note
        assert "(?P<split>" in note
        assert "speaker" not in note

    def test_speaker_above_class(self, rule):
        labelled = label_recordings(tree("anna/freude", "anna/Ärger", "bert/freude", "bert/Ärger"), rule)
        assert {label for label, _, _ in named(labelled).values()} == {"freude", "Ärger"}

    def test_speakers_that_are_called_so_are_taken(self, rule):
        labelled = label_recordings(tree("happy/Actor_01", "sad/Actor_01", "sad/Actor_02"), rule)
        assert named(labelled) == {
            "happy/Actor_01": ("happy", "Actor_01", None),
            "sad/Actor_01": ("sad", "Actor_01", None),
            "sad/Actor_02": ("sad", "Actor_02", None),
        }
        assert labelled.notes == ["speakers are taken from the folders Actor_01, Actor_02"]

    def test_a_folder_in_every_class(self, rule):
        assert named(label_recordings(tree("A/wav", "B/wav"), rule)) == {
            "A/wav": ("A", None, None),
            "B/wav": ("B", None, None),
        }

    def test_absolute_paths(self, rule):
        labelled = label_recordings(tree("/data/joy/corpus/happy", "/data/joy/corpus/sad"), rule)
        assert {label for label, _, _ in named(labelled).values()} == {"happy", "sad"}

    def test_names_that_do_not_tell_are_asked_about(self, rule):
        """And both ways out that are offered work."""
        source = tree("A/x", "A/y", "B/x", "B/y")
        with pytest.raises(LabelError, match="do not show which are the classes") as error:
            label_recordings(source, rule)
        by_top, by_last = re.findall(r"--labels '(.*?)' if", str(error.value))
        assert named(label_recordings(source, by_top))["A/x"] == ("A", "x", None)
        assert named(label_recordings(source, by_last))["A/x"] == ("x", "A", None)
        assert str(error.value).endswith("if the classes are x, y")

    @pytest.mark.parametrize("above", ["", "/data/", "../in/"])
    def test_different_depths_are_asked_about(self, rule, above):
        source = tree(f"{above}A", f"{above}B/x", f"{above}B/y")
        with pytest.raises(LabelError, match="do not show") as error:
            label_recordings(source, rule)
        by_top, by_last = re.findall(r"--labels '(.*?)' if", str(error.value))
        assert named(label_recordings(source, by_top))[f"{above}B/y"] == ("B", None, None)
        assert named(label_recordings(source, by_last))[f"{above}B/y"] == ("y", None, None)

    def test_speakers_at_any_level(self, rule):
        labelled = label_recordings(tree("s1/Speaker 2/joy", "s1/Speaker 1/fear", "s2/Speaker 1/joy"), rule)
        assert named(labelled)["s1/Speaker 2/joy"] == ("joy", "Speaker 2", None)

    def test_split_folders_with_names_that_do_not_tell(self, rule):
        source = listing(
            "loose.wav", *(f"{split}/{a}/{b}/1.wav" for split in ("train", "val") for a in "AB" for b in "xy")
        )
        with pytest.raises(LabelError, match="do not show") as error:
            label_recordings(source, rule)
        by_top, by_last = re.findall(r"--labels '(.*?)' if", str(error.value))
        assert named(label_recordings(source, by_top))["val/A/x"] == ("A", "x", "validation")
        assert named(label_recordings(source, by_last))["val/A/x"] == ("x", "A", "validation")

    def test_one_class_in_every_split_is_refused(self, rule):
        with pytest.raises(LabelError, match="only one class's folder, x, holds recordings"):
            label_recordings(tree("train/a/x", "test/a/x"), rule)

    @pytest.mark.parametrize("above", ["", "/data/corpus/"])
    def test_split_folders(self, rule, above):
        folders = [f"{above}{split}/{name}" for split in ("Train", "val", "test") for name in ("x", "y")]
        labelled = label_recordings(tree(*folders), rule)
        assert set(named(labelled).values()) == {
            (label, None, split) for label in ("x", "y") for split in ("train", "validation", "test")
        }
        assert labelled.notes == ["splits are taken from the folders Train, test, val"]

    def test_split_folders_around_classes_and_speakers(self, rule):
        labelled = label_recordings(tree("train/happy/anna", "train/sad/anna", "dev/happy/bert", "dev/sad/bert"), rule)
        assert named(labelled)["dev/sad/bert"] == ("sad", None, "validation")
        assert labelled.notes[-1] == "splits are taken from the folders dev, train"
        way = re.search("--labels '(.*)'", labelled.notes[0])[1]
        again = label_recordings(tree("train/happy/anna", "train/sad/anna", "dev/happy/bert", "dev/sad/bert"), way)
        assert named(again)["dev/sad/bert"] == ("sad", "bert", "validation")

    @pytest.mark.parametrize("folders", [("train/x", "train/y"), ("test/x", "val/y", "test/y"), ("train/x", "a/y")])
    def test_what_is_no_division(self, rule, folders):
        source = listing(*(f"{folder}/03a01Fa.wav" for folder in folders))
        if rule == "folder" and len({folder[:3] for folder in folders}) > 1:
            with pytest.raises(LabelError, match="do not show"):
                label_recordings(source, rule)
        else:
            assert {r.split for r in recordings(label_recordings(source, rule).recordings)} == {None}

    def test_files_beside_the_split_folders(self, rule):
        source = listing("readme.wav", "train/happy/a.wav", "train/b.wav", "test/sad/c.wav")
        labelled = label_recordings(source, rule)
        assert named(labelled) == {"train/happy": ("happy", None, "train"), "test/sad": ("sad", None, "test")}
        assert {(r.file, r.reason) for r in labelled.rejections} == {
            ("readme.wav", "is not inside a class folder"),
            ("train/b.wav", "is not inside a class folder"),
        }


def test_labels_from_columns_and_folders_together_are_asked_about():
    some = [Recording("a.wav", "a.wav", label="joy"), Recording("d/fear/b.wav", "d/fear/b.wav")]
    mixed = Listing(make_table(some))
    with pytest.raises(LabelError, match="some SOURCEs have a column label and others have none; give --labels"):
        label_recordings(mixed)
    assert labels(label_recordings(mixed, "folder")) == {"a.wav": ("joy", None), "d/fear/b.wav": ("fear", None)}


def test_folders_of_several_sources():
    names = [f"{corpus}/{emotion}/a.wav" for corpus in ("berlin", "../rome") for emotion in ("joy", "fear")]
    assert [recording.label for recording in recordings(label_recordings(listing(*names)).recordings)] == 2 * [
        "joy",
        "fear",
    ]
    assert [r.label for r in recordings(label_recordings(listing("joy/a.wav", "fear/b.wav")).recordings)] == [
        "joy",
        "fear",
    ]


def test_split_folders_hold_for_other_ways_of_labelling(tmp_path):
    names = ("train/03a01Fa.wav", "test/08a01Wa.wav")
    assert [r.split for r in recordings(label_recordings(listing(*names)).recordings)] == ["train", "test"]
    assert [r.split for r in recordings(label_recordings(listing(*names, label="x")).recordings)] == ["train", "test"]
    assert [
        r.split for r in recordings(label_recordings(listing(*names, label="x", split="train")).recordings)
    ] == 2 * ["train"]
    assert [r.split for r in recordings(label_recordings(listing(*names), r"regex:\d(?P<label>[FW])").recordings)] == [
        None,
        None,
    ]


class TestRegex:
    def test_label_and_speaker(self):
        labelled = label_recordings(listing("s1_happy_2.wav"), r"regex:(?P<speaker>s\d)_(?P<label>[a-z]+)")
        assert labels(labelled) == {"s1_happy_2.wav": ("happy", "s1")}

    def test_names_that_do_not_match_are_rows(self):
        labelled = label_recordings(listing("s1_happy.wav", "x.wav"), r"regex:_(?P<label>[a-z]+)")
        assert [r.file for r in labelled.rejections] == ["x.wav"]

    @pytest.mark.parametrize(
        ("pattern", "says"), [("(", "not a regular expression"), ("[a-z]+", r"no group \(\?P<label>")]
    )
    def test_patterns_that_cannot_be_used(self, pattern, says):
        with pytest.raises(UsageError, match=says):
            label_recordings(listing("a.wav"), f"regex:{pattern}")


class TestCsv:
    def test_joined_by_file(self, tmp_path):
        (tmp_path / "l.csv").write_text("file,label,speaker\na.wav,03,007\nx/b.wav,sad,\nunused.wav,sad,\n")
        labelled = label_recordings(listing("a.wav", "x/b.wav", "c.wav"), str(tmp_path / "l.csv"))
        assert labels(labelled) == {"a.wav": ("03", "007"), "x/b.wav": ("sad", None)}
        assert [(r.file, r.reason) for r in labelled.rejections] == [("c.wav", "has no label in l.csv")]

    def test_names_with_undecodable_bytes_and_backslashes(self, tmp_path):
        (tmp_path / "l.csv").write_bytes(b"file,label\ncaf\xe9.wav,sad\na\\b.wav,happy\n")
        labelled = label_recordings(listing(r"caf\xe9.wav", r"a\\b.wav"), str(tmp_path / "l.csv"))
        assert labels(labelled) == {r"caf\xe9.wav": ("sad", None), r"a\\b.wav": ("happy", None)}

    def test_columns_of_the_source_win(self, tmp_path):
        (tmp_path / "l.csv").write_text("file,label,speaker\na.wav,sad,s1\n")
        labelled = label_recordings(listing("a.wav", label="calm"), str(tmp_path / "l.csv"))
        assert labels(labelled) == {"a.wav": ("calm", "s1")}

    def test_two_labels_for_one_file(self, tmp_path):
        (tmp_path / "l.csv").write_text("file,label\na.wav,sad\na.wav,sad\na.wav,happy\n")
        with pytest.raises(LabelError, match=r"line 4 has another label or speaker of a.wav"):
            label_recordings(listing("a.wav"), str(tmp_path / "l.csv"))

    def test_a_row_with_more_cells_than_the_header(self, tmp_path):
        (tmp_path / "l.csv").write_text("file,label\na, b.wav,sad\n")
        with pytest.raises(LabelError, match="line 2 has 3 cells, and the header has 2"):
            label_recordings(listing("a"), str(tmp_path / "l.csv"))

    def test_missing_columns(self, tmp_path):
        (tmp_path / "l.csv").write_text("name,feeling\na.wav,sad\n")
        with pytest.raises(LabelError, match="needs the columns file and label; it has: name, feeling"):
            label_recordings(listing("a.wav"), str(tmp_path / "l.csv"))

    def test_other_forms_and_names(self, tmp_path):
        (tmp_path / "l.csv").write_text("Path;Emotion;spk;x\na.wav;sad;s1;1\n", encoding="utf-16")
        labelled = label_recordings(listing("a.wav"), str(tmp_path / "l.csv"))
        assert labels(labelled) == {"a.wav": ("sad", None)}
        assert [note.partition(": ")[2] for note in labelled.notes] == [
            "column 'Path' is used as file",
            "column 'Emotion' is used as label",
            "column 'spk' is not used; rename it to speaker if it holds speaker names",
            "columns that are not used: 'x'",
        ]

    def test_a_tsv(self, tmp_path):
        (tmp_path / "l.tsv").write_text("file\tlabel\na.wav\tsad\n")
        assert labels(label_recordings(listing("a.wav"), str(tmp_path / "l.tsv"))) == {"a.wav": ("sad", None)}


class TestLabelsUnderAnotherName:
    """A CSV whose labels are not found must not be labelled from its file names."""

    def source(self, folder, header, values=("joy", "grief")):
        rows = "".join(f"{file},{values[n % len(values)]}\n" for n, file in enumerate(EMODB_SAMPLE_LABELS))
        (folder / "t.csv").write_text(f"file,{header}\n{rows}")
        return list_source(str(folder / "t.csv"))

    @pytest.mark.parametrize(
        "header", ["lable", "Labels", "label_id", "class", "target", "sentiment", "emotion_label", "y", "emotoin"]
    )
    def test_a_name_near_to_label_is_asked_about(self, tmp_path, header):
        with pytest.raises(
            LabelError, match=f"column '{header}' may hold the labels: rename it to label, or .*--labels"
        ):
            label_recordings(self.source(tmp_path, header, "12345"))

    def test_a_column_of_few_words_is_asked_about(self, tmp_path):
        with pytest.raises(LabelError, match="column 'rating' may hold the labels"):
            label_recordings(self.source(tmp_path, "rating"))

    @pytest.mark.parametrize(
        ("header", "values"),
        [
            ("duration", ["1.5", "2.25"]),
            ("take", ["1", "2"]),
            ("language", ["de"]),
            ("text", [f"word {n}" for n in range(99)]),
            ("spk", ["anna", "bert"]),
        ],
    )
    def test_other_columns_are_not(self, tmp_path, header, values):
        labelled = label_recordings(self.source(tmp_path, header, values))
        assert (labelled.rule, labels(labelled)) == ("emodb names", EMODB_SAMPLE_LABELS)

    @pytest.mark.parametrize("rule", ["emodb", r"regex:(?P<label>[A-Z])[a-z]\.wav"])
    def test_a_way_that_is_named_is_taken(self, tmp_path, rule):
        assert len(label_recordings(self.source(tmp_path, "lable"), rule).recordings) == 14


def test_an_unknown_rule_is_told_the_known_ones():
    with pytest.raises(UsageError, match=r"emotions: not auto, folder.*emodb.*ravdess"):
        label_recordings(listing("a.wav"), "emotions")


def test_no_match_at_all_names_the_first_file_and_the_three_ways():
    with pytest.raises(LabelError, match=r"emodb names.*2 inputs, a\.wav.*three ways"):
        label_recordings(listing("a.wav", "b.wav"), "emodb")


@pytest.mark.parametrize("rule", ["auto", "folder"])
def test_one_class_alone_is_refused(rule):
    some = [Recording(file, file) for file in ("l/a.wav", "l/b.wav")]
    with pytest.raises(LabelError, match="only one class's folder, l, holds recordings"):
        label_recordings(Listing(make_table(some)), rule)


@pytest.mark.parametrize("label", ["joy\n", "\x1b[31m", "two\nlines"])
def test_labels_that_are_no_plain_text_are_refused(label):
    some = [Recording("a.wav", "a.wav", label), Recording("b.wav", "b.wav", "fear")]
    labelled = label_recordings(Listing(make_table(some)))
    assert [(r.file, r.stage) for r in labelled.rejections] == [("a.wav", "label")]


def test_rejections_of_the_listing_are_kept():
    before = Rejection("gone", "list", "is a link to a folder that contains it")
    some = [Recording(file, file) for file in ("x/a.wav", "y/a.wav")]
    labelled = label_recordings(Listing(make_table(some), [before]), "folder")
    assert labelled.rejections == [before]


def test_a_listing_of_rejections_alone_has_no_labels():
    with pytest.raises(LabelError, match="no labels found"):
        label_recordings(Listing(make_table([]), [Rejection("a.wav", "list", "line 2: not a time")]))


class TestNames:
    DECOMPOSED = "fro\u0308hlich"
    COMPOSED = "fr\u00f6hlich"

    @pytest.mark.parametrize(
        ("source", "rule"),
        [
            (listing(f"{DECOMPOSED}/a.wav", f"{COMPOSED}/b.wav", "x/c.wav"), "folder"),
            (listing(f"a_{DECOMPOSED} .wav", f"b_{COMPOSED}.wav", "c_x.wav"), r"regex:_(?P<label>.+)\.wav"),
        ],
    )
    def test_labels_are_composed_and_stripped(self, source, rule):
        labelled = label_recordings(source, rule)
        assert [r.label for r in recordings(labelled.recordings)] == [self.COMPOSED, self.COMPOSED, "x"]

    def test_in_tables_too(self, tmp_path):
        text = f"file,label,speaker\na,{self.DECOMPOSED} ,{self.DECOMPOSED}\nb, {self.COMPOSED},{self.COMPOSED} \n"
        (tmp_path / "t.csv").write_text(text)
        for labelled in (
            label_recordings(list_source(str(tmp_path / "t.csv"))),
            label_recordings(listing("a", "b"), str(tmp_path / "t.csv")),
        ):
            assert set(labels(labelled).values()) == {(self.COMPOSED, self.COMPOSED)}

    def test_in_label_maps_too(self, tmp_path):
        (tmp_path / "map.csv").write_text(f"from,to\n{self.DECOMPOSED},{self.DECOMPOSED}er\n")
        source = listing(f"{self.COMPOSED}/a.wav", "x/c.wav")
        labelled = label_recordings(source, "folder", read_label_map(tmp_path / "map.csv"))
        assert [r.label for r in recordings(labelled.recordings)] == [f"{self.COMPOSED}er", "x"]

    def test_labels_that_differ_by_case_are_warned_about(self):
        labelled = label_recordings(listing("Joy/a.wav", "joy/b.wav", "fear/c.wav"), "folder")
        assert labelled.notes == [
            "labels that differ only by case are different classes: 'Joy' and 'joy'; --label-map can join them"
        ]
        assert label_recordings(listing("Joy/a.wav", "joy/b.wav", "f/c.wav"), "folder", {"Joy": "joy"}).notes == []

    def test_speakers_that_differ_by_case_or_zeros_are_warned_about(self):
        speakers = ["3", "03", "s1", "S01", "10", "100", "0", "NA"]
        some = [Recording(f"{name}.wav", name, "x", name) for name in speakers]
        assert label_recordings(Listing(make_table(some))).notes == [
            "speakers that differ only by case or leading zeros are different speakers: '03' and '3', 'S01' and 's1'",
            "'NA' is used as the name of one speaker; leave it empty if the speaker is unknown",
        ]

    def test_labels_and_speakers_that_are_not_utf_8_are_warned_about(self, tmp_path):
        (tmp_path / "table.csv").write_bytes("file;label;speaker\na;fröh;Jörg\nb;tr\\x;s\n".encode("cp1252"))
        labelled = label_recordings(list_source(str(tmp_path / "table.csv")))
        advice = "save a CSV that holds them as UTF-8"
        assert labelled.notes == [
            rf"labels that are not UTF-8 are written as bytes, as 'fr\xf6h'; {advice}",
            rf"speakers that are not UTF-8 are written as bytes, as 'J\xf6rg'; {advice}",
        ]

    @pytest.mark.parametrize("rule", ["folder", "regex:^(?P<speaker>.*)/"])
    def test_speakers_of_an_inference_too(self, rule):
        named = name_speakers(listing(f"{self.DECOMPOSED}/a.wav", f"{self.COMPOSED} /b.wav"), rule)
        assert {recording.speaker for recording in recordings(named.recordings)} == {self.COMPOSED}


class TestLabelsThatPandasReadsAsMissing:
    def test_the_words_are_those_of_pandas(self):
        from pandas._libs.parsers import STR_NA_VALUES

        assert STR_NA_VALUES - {""} == MISSING_VALUE_WORDS

    @pytest.mark.parametrize("word", ["NA", "nan", "None", "null"])
    def test_are_refused_and_can_be_mapped(self, word):
        source = listing(f"{word}/a.wav", "joy/b.wav")
        (refused,) = label_recordings(source, "folder").rejections
        assert (refused.file, refused.stage) == (f"{word}/a.wav", "label")
        assert f"'{word}', which pandas reads as missing; rename it with --label-map" in refused.reason
        mapped = label_recordings(source, "folder", {word: "nothing"})
        assert [r.label for r in recordings(mapped.recordings)] == ["nothing", "joy"]
        assert label_recordings(source, "folder", {word: DROP}).rejections == []

    def test_no_label_is_renamed_to_one(self, tmp_path):
        (tmp_path / "map.csv").write_text("from,to\nx,None\n")
        with pytest.raises(LabelError, match="line 2 maps to 'None', which pandas reads as missing"):
            read_label_map(tmp_path / "map.csv")


class TestLabelMap:
    EMODB = ("03a01Fa.wav", "03a01Wa.wav", "03a01La.wav", "08a01La.wav")

    def test_renames_and_keeps_the_rest(self):
        labelled = label_recordings(listing(*self.EMODB), "emodb", {"happiness": "positive", "anger": "negative"})
        assert [recording.label for recording in recordings(labelled.recordings)] == [
            "positive",
            "negative",
            "boredom",
            "boredom",
        ]
        assert labelled.rejections == []
        assert not labelled.left_out

    def test_leaves_out_what_is_mapped_to_drop(self):
        labelled = label_recordings(listing(*self.EMODB), "emodb", {"boredom": DROP, "anger": "negative"})
        assert labels(labelled) == {"03a01Fa.wav": ("happiness", "03"), "03a01Wa.wav": ("negative", "03")}
        assert labelled.rejections == []
        assert labelled.left_out == {"boredom": 2}

    def test_leaving_out_everything_is_an_error(self):
        with pytest.raises(LabelError, match="leaves out all 1 recording with"):
            label_recordings(listing("a.wav", label="x"), label_map={"x": DROP})

    @pytest.mark.parametrize(
        ("absent", "hint"), [("hapiness", r"did you mean 'happiness'\?"), ("calm", "correct the line or remove it")]
    )
    def test_a_label_that_no_recording_has(self, absent, hint):
        with pytest.raises(LabelError, match=f"'{absent}'; labels found: anger, boredom, happiness; {hint}"):
            label_recordings(listing(*self.EMODB), "emodb", {absent: "positive"})

    def test_applies_once(self):
        labelled = label_recordings(listing(*self.EMODB[:2]), "emodb", {"happiness": "anger", "anger": "happiness"})
        assert [recording.label for recording in recordings(labelled.recordings)] == ["anger", "happiness"]

    def test_applies_to_columns_too(self):
        labelled = label_recordings(listing("a.wav", label="03"), label_map={"03": "anger"})
        assert labels(labelled) == {"a.wav": ("anger", None)}

    def test_is_read_as_text(self, tmp_path):
        (tmp_path / "map.csv").write_text("From;TO \n03; anger\n04;(Drop)\n;\n05;( drop )\n")
        assert read_label_map(tmp_path / "map.csv") == {"03": "anger", "04": DROP, "05": DROP}

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a,b\nx,y\n", "from and to; it has: a, b"),
            ("from,to\nx,y\n x ,z\n", "line 3 maps x a second time"),
            ("from,to\nx,\n", r"line 2 maps 'x' to ''.*Write \(drop\)"),
            ("from,to\n,x\n", "line 2 maps '' to 'x'"),
            ("from,to\nx,Drop\n", r"line 2 maps 'x' to 'Drop'; write \(drop\)"),
            ("from,to\nx,y,z\n", "line 2 has 3 cells, and the header has 2"),
        ],
    )
    def test_what_is_no_map(self, tmp_path, text, says):
        (tmp_path / "map.csv").write_text(text)
        with pytest.raises(LabelError, match=says):
            read_label_map(tmp_path / "map.csv")
