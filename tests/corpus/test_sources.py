import io
import os
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from ser_batch.corpus.sources import EXTENSIONS, list_source, list_sources, printable
from ser_batch.corpus.table import Recording, first_of_file, make_table, recordings
from ser_batch.errors import SourceError, UsageError
from ser_batch.formatting import parse_secs
from ser_batch.storage.tables import counts, encoded, plain, with_column


def make(folder, *names):
    for name in names:
        path = os.path.join(os.fsencode(folder), name if isinstance(name, bytes) else name.encode())
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb"):
            pass
    return str(folder)


def files(listing):
    return [recording.file for recording in recordings(listing.recordings)]


def csv_source(folder, text, name="table.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(folder / name)


def refusals(listing):
    return [(rejection.file, rejection.reason) for rejection in listing.rejections]


class TestDirectory:
    def test_order_is_that_of_the_whole_path_as_text(self, tmp_path):
        names = ["b.wav", "a/z.wav", "a-b/c.wav", "a.wav", "B.wav", "a/b/c.wav", "a0.wav", "é.wav", "10.wav", "9.wav"]
        assert files(list_source(make(tmp_path, *names))) == sorted(names)

    def test_hidden_entries_are_skipped_and_others_counted(self, tmp_path):
        names = ["a.wav", ".a.wav", ".hidden/b.wav", "notes.txt", "sub/table.csv", ".DS_Store", "wav", "sub/c.FLAC"]
        listing = list_source(make(tmp_path, *names))
        assert files(listing) == ["a.wav", "sub/c.FLAC"]
        assert listing.other_files == 3
        assert listing.rejections == []

    @pytest.mark.parametrize("extension", ["wav", "WAV", "Mp3", "m4a", "amr", "opus", "webm", "mp4", "wma", "3gp"])
    def test_audio_is_known_by_extension(self, tmp_path, extension):
        assert files(list_source(make(tmp_path, f"a.b.{extension}"))) == [f"a.b.{extension}"]

    def test_extensions_are_lower_case_and_bare(self):
        assert all(extension.islower() and "." not in extension for extension in EXTENSIONS)

    def test_keys_are_relative_and_paths_open(self, tmp_path):
        (recording,) = recordings(list_source(make(tmp_path / "in", "x/a.wav")).recordings)
        assert recording.file == "x/a.wav"
        assert os.path.exists(recording.path)
        assert (recording.label, recording.speaker, recording.split, recording.end_secs) == (None, None, None, None)

    def test_a_trailing_slash_changes_nothing(self, tmp_path):
        source = make(tmp_path, "x/a.wav")
        assert files(list_source(source + "/")) == files(list_source(source))

    def test_links_to_folders_are_followed_but_not_in_circles(self, tmp_path):
        source = make(tmp_path / "in", "x/a.wav")
        make(tmp_path / "elsewhere", "b.wav")
        (tmp_path / "in/y").symlink_to(tmp_path / "elsewhere")
        (tmp_path / "in/x/up").symlink_to(tmp_path / "in")
        listing = list_source(source)
        assert files(listing) == ["x/a.wav", "y/b.wav"]
        assert [(rejection.file, rejection.stage) for rejection in listing.rejections] == [("x/up", "list")]
        assert "link" in listing.rejections[0].reason

    def test_a_link_to_nothing_is_listed_so_that_it_is_not_lost(self, tmp_path):
        (tmp_path / "a.wav").symlink_to(tmp_path / "gone.wav")
        assert files(list_source(str(tmp_path))) == ["a.wav"]

    def test_a_subfolder_that_cannot_be_listed_is_a_row(self, tmp_path, monkeypatch):
        source = make(tmp_path, "a.wav", "locked/b.wav")
        scandir = os.scandir

        def refusing(path):
            if str(path).endswith("locked"):
                raise PermissionError(13, "Permission denied")
            return scandir(path)

        monkeypatch.setattr(os, "scandir", refusing)
        listing = list_source(source)
        assert files(listing) == ["a.wav"]
        assert refusals(listing) == [("locked", "cannot be listed: Permission denied")]

    def test_a_root_that_cannot_be_listed_is_an_error(self, tmp_path, monkeypatch):
        def refusing(path):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(os, "scandir", refusing)
        with pytest.raises(SourceError, match=r"cannot be listed \(Permission denied\)"):
            list_source(str(tmp_path))

    def test_an_empty_folder(self, tmp_path):
        with pytest.raises(SourceError, match=r"no audio.*holds nothing"):
            list_source(str(tmp_path))

    def test_a_folder_without_audio(self, tmp_path):
        with pytest.raises(SourceError, match=r"no audio.*2 other files"):
            list_source(make(tmp_path, "a.txt", "x/b.pdf"))

    def test_odd_names_stay_apart(self, tmp_path):
        names = [
            b"a\nb.wav",
            b"a\\nb.wav",
            b"caf\xe9.wav",
            "café.wav".encode(),
            b"caf\\xe9.wav",
            b"a,\"'b.wav",
            b"-.wav",
        ]
        listed = list(recordings(list_source(make(tmp_path, *names)).recordings))
        assert {os.path.basename(os.fsencode(recording.path)) for recording in listed} == set(names)
        assert len({recording.file for recording in listed}) == len(names)
        assert {r"caf\xe9.wav", "café.wav", r"caf\\xe9.wav", r"a\\nb.wav", "a\nb.wav"} <= {r.file for r in listed}
        for recording in listed:
            recording.file.encode()


class TestSeveral:
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        make(tmp_path, "a.wav", "d/a.wav", "d/x/b.wav", "d/notes.pdf", "e/a.wav", "x.txt", "empty/y.pdf")
        csv_source(tmp_path, "file,label\nd/c.wav,joy\ne/a.wav,fear\n")

    def test_keys_are_the_paths_as_given(self):
        listing = list_sources(["./e/", "a.wav", "d", "table.csv"])
        assert files(listing) == ["e/a.wav", "a.wav", "d/a.wav", "d/x/b.wav", "d/c.wav"]
        assert all(os.path.normpath(recording.path) == recording.file for recording in recordings(listing.recordings))
        assert listing.other_files == 1
        assert refusals(listing) == [("e/a.wav", "is listed again by table.csv, after ./e/")]

    def test_one_alone_is_as_ever(self):
        assert files(list_sources(["d"])) == ["a.wav", "x/b.wav"]
        assert files(list_sources(["e/a.wav"])) == ["a.wav"]

    def test_the_working_directory_among_others(self, tmp_path):
        listing = list_sources([".", "d/a.wav", str(tmp_path / "e")])
        assert files(listing) == ["a.wav", "d/a.wav", "d/x/b.wav", "e/a.wav", f"{tmp_path}/e/a.wav"]
        assert refusals(listing) == [("d/a.wav", "is listed again by d/a.wav, after .")]

    def test_what_a_star_gives_besides_audio_is_a_row(self, tmp_path):
        (tmp_path / "gone.wav").symlink_to(tmp_path / "nowhere")
        listing = list_sources(["a.wav", "empty", "gone.wav", "x.txt"])
        assert files(listing) == ["a.wav", "gone.wav"]
        assert [(file, reason.partition(";")[0]) for file, reason in refusals(listing)] == [
            ("empty", "no audio in it or its subfolders (it holds 1 other file)"),
            ("x.txt", "a text file"),
        ]

    def test_a_link_in_a_circle_has_its_whole_path(self, tmp_path):
        (tmp_path / "d/x/up").symlink_to(tmp_path / "d")
        assert refusals(list_sources(["d", "a.wav"])) == [("d/x/up", "is a link to a folder that contains it")]

    @pytest.mark.parametrize("sources", [["a.wav", "absent.wav"], ["absent/", "a.wav"], ["a.wav", "@absent.txt"]])
    def test_one_that_is_missing_is_an_error(self, sources):
        with pytest.raises(SourceError, match="absent"):
            list_sources(sources)

    def test_standard_input_once(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"d/a.wav\n")))
        assert files(list_sources(["a.wav", "-"])) == ["a.wav", "d/a.wav"]
        with pytest.raises(UsageError, match="only once"):
            list_sources(["-", "-"])

    def test_columns_that_all_have_and_notes_of_each(self, tmp_path):
        csv_source(tmp_path, "Path,label,take\nd/x/b.wav,joy,1\n", "more.csv")
        listing = list_sources(["table.csv", "more.csv"])
        assert listing.has_columns == {"file", "label"}
        assert len(listing.notes) == 2
        assert listing.bases == {"table.csv": str(tmp_path), "more.csv": str(tmp_path)}
        assert list_sources(["table.csv", "d"]).has_columns == set()


class TestSeveralForms:
    """What spreadsheets and other programs write as a CSV."""

    @pytest.mark.parametrize("delimiter", [",", ";", "\t"])
    @pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le with mark", "utf-16-be with mark"])
    @pytest.mark.parametrize("line_end", ["\n", "\r\n"])
    def test_delimiters_encodings_and_line_ends(self, tmp_path, delimiter, encoding, line_end):
        rows = [("file", "Label"), ("größe, 1.wav", "joy"), ("b;2.wav", "fear")]
        text = "".join(f'"{file}"{delimiter}"{label}"{line_end}' for file, label in rows)
        marked = "\ufeff" + text if "mark" in encoding else text
        source = csv_source(tmp_path, marked.encode(encoding.removesuffix(" with mark")))
        listing = list_source(source)
        assert [(r.file, r.label) for r in recordings(listing.recordings)] == [
            ("größe, 1.wav", "joy"),
            ("b;2.wav", "fear"),
        ]
        assert listing.notes == []

    def test_a_tsv_is_a_table(self, tmp_path):
        listing = list_source(csv_source(tmp_path, "file\tlabel\na,b.wav\tjoy\n", "table.TSV"))
        assert [(r.file, r.label) for r in recordings(listing.recordings)] == [("a,b.wav", "joy")]

    def test_the_delimiter_is_the_headers_and_not_one_in_quotes(self, tmp_path):
        listing = list_source(csv_source(tmp_path, '"notes, by us, and more";file\nx;a,b.wav\n'))
        assert files(listing) == ["a,b.wav"]

    def test_one_column_has_commas_in_quotes_only(self, tmp_path):
        assert files(list_source(csv_source(tmp_path, 'file\n"a;b,c.wav"\nd;e.wav\n'))) == ["a;b,c.wav", "d;e.wav"]

    @pytest.mark.parametrize("content", ["file,label\na.wav,x\n".encode("utf-16-le"), b"PK\x03\x04\0\0,\n"])
    def test_what_is_not_text(self, tmp_path, content):
        with pytest.raises(SourceError, match="not a text in UTF-8"):
            list_source(csv_source(tmp_path, content))

    def test_broken_utf_16(self, tmp_path):
        with pytest.raises(SourceError, match="is not UTF-16"):
            list_source(csv_source(tmp_path, b"\xff\xfef\0i\0l\0e\0\n\0a\0\n\0b"))

    def test_a_list_in_utf_16(self, tmp_path):
        (tmp_path / "list.txt").write_bytes("ä.wav\r\nb.wav\r\n".encode("utf-16"))
        assert files(list_source(f"@{tmp_path}/list.txt")) == ["ä.wav", "b.wav"]

    def test_line_numbers_count_quoted_newlines_and_blank_lines(self, tmp_path):
        listing = list_source(csv_source(tmp_path, '\nfile,start\n"a\nb",x\n\nc,y\n"d",\n'))
        assert [reason.partition(":")[0] for _, reason in refusals(listing)] == ["line 4", "line 6"]


class TestColumnNames:
    def test_case_and_space_do_not_count(self, tmp_path):
        listing = list_source(csv_source(tmp_path, " File ,LABEL,Speaker\na.wav,x,y\n"))
        assert [(r.file, r.label, r.speaker) for r in recordings(listing.recordings)] == [("a.wav", "x", "y")]
        assert listing.notes == listing.label_notes == []

    @pytest.mark.parametrize("alias", ["path", "filename", "wav", "Path "])
    def test_aliases_are_named(self, tmp_path, alias):
        listing = list_source(csv_source(tmp_path, f"{alias},Emotion\na.wav,x\n"))
        assert [(r.file, r.label) for r in recordings(listing.recordings)] == [("a.wav", "x")]
        assert listing.notes == [f"{tmp_path}/table.csv: column '{alias.strip()}' is used as file"]
        assert listing.label_notes == [f"{tmp_path}/table.csv: column 'Emotion' is used as label"]

    def test_the_name_itself_wins_over_an_alias(self, tmp_path):
        listing = list_source(csv_source(tmp_path, "path,file,emotion,label\nx,a.wav,y,joy\n"))
        assert [(r.file, r.label) for r in recordings(listing.recordings)] == [("a.wav", "joy")]
        assert listing.notes == [f"{tmp_path}/table.csv: columns that are not used: 'path', 'emotion'"]

    @pytest.mark.parametrize("header", ["file,File", "path,wav", "file,label,Label"])
    def test_two_columns_of_one_meaning_are_refused(self, tmp_path, header):
        with pytest.raises(SourceError, match=r"2 columns for (file|label): .*keep or rename one"):
            list_source(csv_source(tmp_path, f"{header}\na,b,c\n"))

    def test_a_speaker_under_another_name_is_pointed_out(self, tmp_path):
        listing = list_source(csv_source(tmp_path, "file,speaker_id,take\na.wav,x,1\n"))
        assert listing.notes == [
            f"{tmp_path}/table.csv: column 'speaker_id' is not used; rename it to speaker if it holds speaker names",
            f"{tmp_path}/table.csv: columns that are not used: 'take'",
        ]

    def test_many_unused_columns_are_one_short_line(self, tmp_path):
        (note,) = list_source(csv_source(tmp_path, f"file,{','.join(f'f{n}' for n in range(99))}\na.wav\n")).notes
        assert note.endswith("'f8', 'f9' and 89 more")


class TestOneFile:
    @pytest.mark.parametrize("name", ["a.wav", "a.xyz", "a", ".a"])
    def test_any_extension_is_tried(self, tmp_path, name):
        make(tmp_path, name)
        (recording,) = recordings(list_source(str(tmp_path / name)).recordings)
        assert (recording.file, recording.path) == (name, str(tmp_path / name))

    def test_a_missing_file(self, tmp_path):
        with pytest.raises(SourceError, match=r"a.wav: no such file"):
            list_source(str(tmp_path / "a.wav"))

    def test_a_text_file_is_not_taken_for_audio(self, tmp_path):
        make(tmp_path, "list.txt")
        with pytest.raises(SourceError, match=r"write @.*list.txt"):
            list_source(str(tmp_path / "list.txt"))


class TestList:
    def test_paths_are_taken_from_the_lists_folder_in_its_order(self, tmp_path):
        (tmp_path / "list.txt").write_text("b.wav\n\nsub/a.wav\r\n/abs/c.wav\n  \n")
        listing = list_source(f"@{tmp_path}/list.txt")
        assert files(listing) == ["b.wav", "sub/a.wav", "/abs/c.wav"]
        assert [r.path for r in recordings(listing.recordings)] == [
            f"{tmp_path}/b.wav",
            f"{tmp_path}/sub/a.wav",
            "/abs/c.wav",
        ]

    def test_names_keep_their_spaces_and_bytes(self, tmp_path):
        (tmp_path / "list.txt").write_bytes(b" a .wav\ncaf\xe9.wav\nb\\c.wav")
        listing = list_source(f"@{tmp_path}/list.txt")
        assert files(listing) == [" a .wav", r"caf\xe9.wav", r"b\\c.wav"]
        assert os.fsencode(list(recordings(listing.recordings))[1].path).endswith(b"caf\xe9.wav")

    def test_standard_input(self, monkeypatch):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"x/a.wav\nb.wav\n")))
        listing = list_source("-")
        assert files(listing) == ["x/a.wav", "b.wav"]
        assert [os.path.normpath(recording.path) for recording in recordings(listing.recordings)] == [
            "x/a.wav",
            "b.wav",
        ]

    def test_a_line_twice_is_one_recording_and_one_row(self, tmp_path):
        (tmp_path / "list.txt").write_text("a.wav\nb.wav\na.wav\n")
        listing = list_source(f"@{tmp_path}/list.txt")
        assert files(listing) == ["a.wav", "b.wav"]
        assert refusals(listing) == [("a.wav", "line 3 repeats line 1")]

    def test_a_name_that_no_file_can_have(self, tmp_path):
        (tmp_path / "list.txt").write_bytes(b"a.wav\nb\0.wav\n")
        listing = list_source(f"@{tmp_path}/list.txt")
        assert files(listing) == ["a.wav"]
        assert "line 2" in listing.rejections[0].reason

    @pytest.mark.parametrize("scheme", ["hdfs", "ftp", "file", "s3a"])
    def test_a_url_is_a_row(self, tmp_path, scheme):
        (tmp_path / "list.txt").write_text(f"a.wav\n{scheme}://b/c.wav\nd:/e.wav\n")
        listing = list_source(f"@{tmp_path}/list.txt")
        assert files(listing) == ["a.wav", "d:/e.wav"]
        ((file, reason),) = refusals(listing)
        assert file == f"{scheme}://b/c.wav"
        assert reason.startswith(f"line 2: is a URL ({scheme}://)")
        assert refusals(list_source(csv_source(tmp_path, f"file\n{file}\n"))) == [(file, reason)]

    @pytest.mark.parametrize("url", ["s3://b/ü c.wav", "https://b/c.wav?key=d/e.txt"])
    def test_a_remote_file_is_a_recording(self, tmp_path, url):
        (tmp_path / "list.txt").write_text(f"a.wav\n{url}\n")
        listing = list_source(f"@{tmp_path}/list.txt")
        assert files(listing) == ["a.wav", url]
        assert [one.path for one in recordings(listing.recordings)] == [f"{tmp_path}/a.wav", url]

    def test_an_empty_list(self, tmp_path):
        (tmp_path / "list.txt").write_text("\n\n")
        with pytest.raises(SourceError, match="lists no recordings"):
            list_source(f"@{tmp_path}/list.txt")

    def test_a_missing_list(self, tmp_path):
        with pytest.raises(SourceError, match="cannot be read"):
            list_source(f"@{tmp_path}/list.txt")

    def test_a_byte_order_mark_is_no_part_of_the_first_name(self, tmp_path):
        (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbfa.wav\nb.wav\n")
        assert files(list_source(f"@{tmp_path}/list.txt")) == ["a.wav", "b.wav"]


class TestCsv:
    def test_columns_are_text(self, tmp_path):
        text = "file,label,speaker,split,start,end,other\na.wav,03,007,test,1.5,00:00:02.25,x\nb.wav,,,,,,\n"
        listing = list_source(csv_source(tmp_path, text))
        assert list(recordings(listing.recordings)) == [
            Recording("a.wav", f"{tmp_path}/a.wav", "03", "007", "test", 1.5, 2.25),
            Recording("b.wav", f"{tmp_path}/b.wav"),
        ]
        assert listing.has_columns == {"file", "label", "speaker", "split", "start", "end"}
        assert listing.notes == [f"{tmp_path}/table.csv: columns that are not used: 'other'"]

    @pytest.mark.parametrize(
        ("written", "split"), [("Train", "train"), (" dev ", "validation"), ("TEST", "test"), ("holdout", "holdout")]
    )
    def test_splits_are_called_as_folders_are(self, tmp_path, written, split):
        (recording,) = recordings(list_source(csv_source(tmp_path, f"file,split\na.wav,{written}\n")).recordings)
        assert recording.split == split

    def test_a_byte_order_mark(self, tmp_path):
        assert files(list_source(csv_source(tmp_path, b"\xef\xbb\xbffile\r\na.wav\r\n"))) == ["a.wav"]

    def test_names_with_commas_quotes_and_newlines(self, tmp_path):
        text = 'file,label\n"a,b.wav",x\n"c\nd.wav",y\n"e""f.wav",z\n'
        assert files(list_source(csv_source(tmp_path, text))) == ["a,b.wav", "c\nd.wav", 'e"f.wav']

    def test_paths_are_taken_from_the_csvs_folder(self, tmp_path, monkeypatch):
        (tmp_path / "x").mkdir()
        csv_source(tmp_path / "x", "file\nsub/a.wav\n/abs/b.wav\n../c.wav\n")
        monkeypatch.chdir(tmp_path)
        listing = list_source("x/table.csv")
        assert [r.path for r in recordings(listing.recordings)] == ["x/sub/a.wav", "/abs/b.wav", "x/../c.wav"]
        assert files(listing) == ["sub/a.wav", "/abs/b.wav", "../c.wav"]

    def test_order_is_kept(self, tmp_path):
        assert files(list_source(csv_source(tmp_path, "file\nb\na\nc\n"))) == ["b", "a", "c"]

    def test_parts_of_one_file_are_recordings_and_repeats_are_rows(self, tmp_path):
        text = "file,start,end\na,0,1\na,1,2\na,0,00:00:01\na,0,\na,,\n"
        listing = list_source(csv_source(tmp_path, text))
        assert [(r.start_secs, r.end_secs) for r in recordings(listing.recordings)] == [(0, 1), (1, 2), (0, None)]
        assert refusals(listing) == [("a", "line 4 repeats line 2"), ("a", "line 6 repeats line 5")]

    @pytest.mark.parametrize(
        "times",
        ["x,", "-1,", "nan,", "inf,", "1e3,", ",x", "2,1", "1,1", "0,0", f"{'9' * 400},", f"{'9' * 400}:00:00,"],
    )
    def test_bad_times_are_rows(self, tmp_path, times):
        listing = list_source(csv_source(tmp_path, f"file,start,end\na,{times}\nb,,\n"))
        assert files(listing) == ["b"]
        (rejection,) = listing.rejections
        assert (rejection.file, rejection.stage) == ("a", "list")
        assert rejection.reason.startswith("line 2: ")

    def test_a_row_without_a_name_is_a_row(self, tmp_path):
        listing = list_source(csv_source(tmp_path, "label,file\nx,\ny,b.wav\n"))
        assert files(listing) == ["b.wav"]
        assert "line 2" in listing.rejections[0].reason

    def test_short_rows(self, tmp_path):
        listing = list_source(csv_source(tmp_path, "file,label,speaker\na.wav\nb.wav,x,y,,\n"))
        assert [(r.file, r.label, r.speaker) for r in recordings(listing.recordings)] == [
            ("a.wav", None, None),
            ("b.wav", "x", "y"),
        ]

    def test_a_row_with_more_cells_than_the_header_is_not_guessed(self, tmp_path):
        """Decimal commas without quotes would give another part, and a time as the label."""
        listing = list_source(csv_source(tmp_path, "file,start,end,label\na.wav,0,5,1,5,joy\nb.wav,0,1,joy\n"))
        assert files(listing) == ["b.wav"]
        (refusal,) = refusals(listing)
        assert refusal[0] == "a.wav"
        assert refusal[1].startswith("line 2 has 6 cells, and the header has 4; put quotes around")

    @pytest.mark.parametrize("blank", [";;", "  ; ;", "   "])
    def test_blank_rows_of_spreadsheets_are_no_rows(self, tmp_path, blank):
        listing = list_source(csv_source(tmp_path, f"file;label\na.wav;x\n{blank}\nb.wav;y\n{blank}\n"))
        assert files(listing) == ["a.wav", "b.wav"]
        assert listing.rejections == []

    @pytest.mark.parametrize(
        "rows",
        ['a.wav,"x\nb.wav,y\nc.wav,z\n', 'c.wav,z\na.wav,"x\nb.wav,"y"\n', 'c,z\na.wav\t"x\nb.wav\ty\nd.wav\tz"\n'],
        ids=["to the end", "to the next quote", "to a quote at a cell's end"],
    )
    def test_quotes_that_swallow_rows_are_refused(self, tmp_path, rows):
        delimiter = "\t" if "\t" in rows else ","
        line = 2 + rows[: rows.index("a.wav")].count("\n")
        with pytest.raises(SourceError, match=f"not a CSV .the row that begins in line {line}: .*quote"):
            list_source(csv_source(tmp_path, f"file{delimiter}note\n{rows}"))

    def test_quotes_within_a_line_lose_nothing(self, tmp_path):
        text = 'file\tnote\na.wav\t"Hm" he said\nb.wav\t5" tape\nc.wav\t"what\n'
        assert files(list_source(csv_source(tmp_path, text, "table.tsv"))) == ["a.wav", "b.wav", "c.wav"]

    @pytest.mark.parametrize(("text", "has"), [("paths,label\na,b\n", "paths, label"), ("datei;x\na;b\n", "datei, x")])
    def test_no_file_column(self, tmp_path, text, has):
        with pytest.raises(SourceError, match=f"no column 'file'.*{has}"):
            list_source(csv_source(tmp_path, text))

    @pytest.mark.parametrize("text", ["", "\n\n"])
    def test_an_empty_file(self, tmp_path, text):
        with pytest.raises(SourceError, match="is empty; it needs a header with the column file"):
            list_source(csv_source(tmp_path, text))

    def test_no_rows(self, tmp_path):
        with pytest.raises(SourceError, match="lists no recordings"):
            list_source(csv_source(tmp_path, "file,label\n"))

    def test_what_is_no_csv(self, tmp_path):
        with pytest.raises(SourceError, match="not a CSV"):
            list_source(csv_source(tmp_path, 'file\n"' + "x" * 200_000 + '"\n'))

    def test_undecodable_names(self, tmp_path):
        (recording,) = recordings(list_source(csv_source(tmp_path, b"file\ncaf\xe9.wav\n")).recordings)
        assert recording.file == r"caf\xe9.wav"
        assert os.fsencode(recording.path) == os.fsencode(tmp_path) + b"/caf\xe9.wav"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a.wav", "a.wav"),
        ("ü.wav".encode(), "ü.wav"),
        (b"\xe9.wav", r"\xe9.wav"),
        (rb"\xe9.wav", r"\\xe9.wav"),
        (rb"\\xe9.wav", r"\\\\xe9.wav"),
        (b"\\\xe9.wav", r"\\\xe9.wav"),
        (b"a\nb", "a\nb"),
    ],
)
def test_printable(name, expected):
    assert printable(os.fsdecode(name)) == expected


@pytest.mark.parametrize(
    ("text", "secs"),
    [
        ("0", 0.0),
        ("12.5", 12.5),
        (" 3 ", 3.0),
        (".5", 0.5),
        ("5.", 5.0),
        ("00:00:01.500000", 1.5),
        ("01:02:03", 3723.0),
        ("100:00:00", 360_000.0),
        ("0 days 00:00:01.25", 1.25),
        ("1 day 00:00:00", 86_400.0),
        ("2 days 01:00:00.5", 176_400.5),
    ],
)
def test_times(text, secs):
    assert parse_secs(text) == secs


@pytest.mark.parametrize(
    "text", ["", "x", "-1", "1e3", "nan", "inf", "1:30", "00:60:00", "00:00:60", "1,5", "-1 days 00:00:01", "9" * 400]
)
def test_what_is_no_time(text):
    with pytest.raises(ValueError, match="not a time"):
        parse_secs(text)


def test_a_link_to_itself_is_an_input_like_any_other(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "loop.wav").symlink_to(tmp_path / "loop.wav")
    for name in ("a.wav", "z.wav"):
        (tmp_path / name).touch()
    listing = list_source(str(tmp_path))
    assert [recording.file for recording in recordings(listing.recordings)] == ["a.wav", "loop.wav", "z.wav"]
    assert (listing.other_files, listing.rejections) == (1, [])


MIXED = [
    Recording("a.wav", "/in/a.wav"),
    Recording("b.wav", "/in/b.wav", "anger", "s1", "test", 1.5, 2.25),
    Recording("/abs/c.wav", "/abs/c.wav", "anger", None, None, 0.0, 0.1),
    Recording("../d.wav", "x/../d.wav", None, "s1"),
    Recording(r"\xff.wav", "/in/\udcff.wav", "fear", "s2", None, 0.1 + 0.2),
    Recording(r"a\\b.wav", r"/in/a\b.wav", "anger"),
    Recording("é\n.wav", "/in/é\n.wav", "fear"),
    Recording("b.wav", "/in/b.wav", "fear", "s1", "test", 2.25, None),
]


class TestTable:
    def test_gives_back_what_it_was_made_of(self):
        table = make_table(MIXED)
        assert list(recordings(table)) == MIXED
        assert list(recordings(table.slice(1, 5))) == MIXED[1:6]
        assert list(recordings(table.take([5, 0]))) == [MIXED[5], MIXED[0]]
        assert list(recordings(make_table([]))) == []

    def test_what_is_sent_to_a_worker_holds_nothing_of_other_rows(self):
        many = make_table(Recording(f"{number}.wav", f"/in/{number}.wav", "a", f"s{number}") for number in range(5000))
        pickled = pickle.dumps(plain(many.take([4321, 17])))
        assert list(recordings(pickle.loads(pickled))) == list(recordings(many.take([4321, 17])))
        assert len(pickled) < 2000

    def test_new_splits_leave_the_old_table_alone(self):
        table = make_table(MIXED)
        divided = with_column(table.slice(2, 2), "split", encoded(["x", "y"], np.array([1, 0])))
        assert [recording.split for recording in recordings(divided)] == ["y", "x"]
        assert list(recordings(table)) == MIXED

    def test_parts_of_one_file_are_known_by_its_path(self):
        assert first_of_file(make_table(MIXED)).tolist() == [0, 1, 2, 3, 4, 5, 6, 1]

    def test_combinations_are_counted(self):
        found = counts(make_table(MIXED).slice(1), "label", "speaker", "split")
        assert found["anger", "s1", "test"] == found["fear", "s1", "test"] == 1
        assert found["anger", None, None] == 2
        assert sum(found.values()) == 7
        assert not counts(make_table([]), "label")

    def test_a_recording_costs_few_bytes(self):
        made = (Recording(f"{number:06d}.wav", f"/a/long/way/{number:06d}.wav", "a", "b") for number in range(20_000))
        before = pa.total_allocated_bytes()
        table = make_table(made)
        assert pa.total_allocated_bytes() - before < 45 * len(table)

    def test_no_table_imports_pandas(self):
        code = "import sys; from ser_batch.corpus.table import *; make_table([]); print('pandas' in sys.modules)"
        assert subprocess.run([sys.executable, "-c", code], capture_output=True).stdout == b"False\n"
