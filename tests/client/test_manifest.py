"""A manifest is read as a stream; each row is judged by itself, and whatever is wrong is said with its line."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sonic import manifest
from sonic.exceptions import BadManifest
from sonic.manifest import BadRow, Row
from sonic.parameters import SPECS


@pytest.fixture
def folder(tmp_path):
    for name in ("a.jpg", "a.wav", "ü, b.wav"):
        (tmp_path / name).touch()
    return tmp_path


def rows(folder, content: str | bytes, name: str = "m.csv", **defaults):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(manifest.read(path, defaults))


def test_cells_become_values_and_paths_begin_at_the_manifest(folder) -> None:
    (row,) = rows(
        folder, "portrait,voice,output,fps,smooth_motion,dynamic_scale,priority\na.jpg,a.wav,o/v.mp4,30,no,1.2,-3\n"
    )
    assert isinstance(row, Row)
    assert (row.line, row.portrait, row.voice, row.output) == (
        2,
        folder / "a.jpg",
        folder / "a.wav",
        folder / "o/v.mp4",
    )
    assert row.wanted == {"fps": 30, "smooth_motion": False, "dynamic_scale": 1.2, "priority": -3}


@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_byte_order_mark_and_line_endings_do_not_matter(folder, mark, ending) -> None:
    text = mark + ending.join(["portrait,audio,output", 'a.jpg,"ü, b.wav",1.mp4', "", "a.jpg,a.wav,", ""])
    found = rows(folder, text)
    assert [(row.line, row.voice.name) for row in found] == [(2, "ü, b.wav"), (4, "a.wav")]
    assert found[1].output is None


def test_lines_are_those_of_the_file_even_where_a_cell_spans_several(folder) -> None:
    found = rows(folder, 'portrait,voice,engine\na.jpg,a.wav,"wa\nrp"\nnone.jpg,a.wav,warp\n')
    assert [row.line for row in found] == [2, 4]


def test_everything_wrong_with_a_row_is_said_at_once(folder) -> None:
    (row,) = rows(folder, "portrait,voice,fps,seed,priority,smooth_motion\nno.jpg,,200,x,11,perhaps\n")
    assert isinstance(row, BadRow)
    problems = {problem.field: problem.description for problem in row.problems}
    assert problems.keys() == {"portrait", "voice", "fps", "seed", "priority", "smooth_motion"}
    assert str(folder / "no.jpg") in problems["portrait"]
    assert "10 to 60" in problems["fps"]


def test_a_bad_row_does_not_end_the_reading(folder) -> None:
    found = rows(folder, "portrait,voice\na.jpg,a.wav,one,too many\n\x00\ufffd,a.wav\na.jpg,a.wav\n")
    assert [(row.line, type(row)) for row in found] == [(2, BadRow), (3, BadRow), (4, Row)]


def test_jsonl_rows_are_judged_like_csv_rows(folder) -> None:
    lines = [
        '{"portrait": "a.jpg", "voice": "a.wav", "fps": 30, "smooth_motion": false}',
        "",
        '{"portrait": "a.jpg", "voice": "a.wav", "fsp": 30}',
        "[1]",
        '{"portrait": 1, "voice": "a.wav", "fps": 30.5, "output": 3}',
    ]
    found = rows(folder, "\n".join(lines), "m.jsonl")
    assert [(row.line, type(row)) for row in found] == [(1, Row), (3, BadRow), (4, BadRow), (5, BadRow)]
    assert found[0].wanted == {"fps": 30, "smooth_motion": False}
    assert "did you mean 'fps'?" in found[1].problems[0].description
    assert {problem.field for problem in found[3].problems} == {"portrait", "fps", "output"}


def test_what_a_row_says_wins_over_what_holds_for_all(folder) -> None:
    found = rows(folder, "portrait,voice,fps\na.jpg,a.wav,30\na.jpg,a.wav,\n", fps=24, seed=7)
    assert [row.wanted for row in found] == [{"fps": 30, "seed": 7}, {"fps": 24, "seed": 7}]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("m.csv", b"portrait,voice,colour\n", "did you mean|known are"),
        ("m.csv", b"portrait,voise\n", "did you mean 'voice'"),
        ("m.csv", b"portrait,fps\n", "portrait and voice"),
        ("m.csv", b"portrait,voice,voice\n", "twice"),
        ("m.csv", b"", "portrait and voice"),
        ("m.csv", b"portrait,voice\n\xff\xfe,x\n", "not UTF-8"),
        ("m.csv", b'portrait,"voice\n' + b"a.jpg,a.wav\n" * 20_000, "header that is not CSV: .*quote"),
        ("m.xlsx", b"", "neither .csv nor .jsonl"),
    ],
)
def test_a_manifest_that_is_none_is_refused_as_a_whole(folder, name, content, said) -> None:
    with pytest.raises(BadManifest, match=said):
        rows(folder, content, name)


def test_a_huge_manifest_is_read_as_far_as_it_is_wanted(folder) -> None:
    path = folder / "m.csv"
    with path.open("w") as file:
        file.write("portrait,voice\n")
        file.writelines("a.jpg,a.wav\n" for _ in range(200_000))
        file.write("\x00" * 10)
    found = manifest.read(path, {})
    assert [row.line for row in itertools.islice(found, 3)] == [2, 3, 4]


@given(st.text())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_text_breaks_the_reading(folder, text) -> None:
    for name, content in (("m.csv", f"portrait,voice\n{text}"), ("m.jsonl", text)):
        lines = [row.line for row in rows(folder, content.encode("utf-8", "replace"), name)]
        assert lines == sorted(set(lines))


def test_a_preset_is_checked_like_a_row(folder) -> None:
    path = folder / "p.toml"
    path.write_text("fps = 30\npriority = 2\nsmooth_motion = false\n")
    assert manifest.read_preset(path) == {"fps": 30, "priority": 2, "smooth_motion": False}
    path.write_text("fps = 3000")
    with pytest.raises(BadManifest, match=f"the preset {path}: fps is 3000"):
        manifest.read_preset(path)
    path.write_text("fpss = 30")
    with pytest.raises(BadManifest, match="did you mean 'fps'"):
        manifest.read_preset(path)


def test_every_parameter_is_a_column(folder) -> None:
    values = {spec.name: spec.default for spec in SPECS if spec.default is not None} | {"duration": 2.5}
    header = ",".join(["portrait", "voice", *values])
    cells = ",".join(["a.jpg", "a.wav", *(str(value) for value in values.values())])
    (row,) = rows(folder, f"{header}\n{cells}\n")
    assert row.wanted == values


def test_a_video_is_called_mp4(folder) -> None:
    text = "portrait,voice,output\na.jpg,a.wav,x.avi\na.jpg,a.wav,x\na.jpg,a.wav,o/x.MP4\n"
    found = rows(folder, text)
    assert [type(row) for row in found] == [BadRow, BadRow, Row]
    (problem,) = found[0].problems
    assert problem.field == "output"
    assert "'x.avi'" in problem.description
    assert ".mp4" in problem.description


def test_what_is_not_json_is_told_with_its_column_and_no_other_line(folder) -> None:
    (row,) = rows(folder, "\n\n{broken\n", "m.jsonl")
    (problem,) = row.problems
    assert row.line == 3
    assert "column 2" in problem.description
    assert "line" not in problem.description


def test_the_inputs_of_a_manifest_are_known_before_its_rows(folder) -> None:
    lines = ['{"portrait": "a.jpg", "voice": "a.wav"}', '{"portrait": "no.jpg", "audio": "o/../ü, b.wav"}', "{x", "[1]"]
    (folder / "o").mkdir()
    rows(folder, "\n".join(lines), "m.jsonl")
    assert manifest.inputs(folder / "m.jsonl") == {folder / name for name in ("a.jpg", "a.wav", "ü, b.wav")}


def test_regions_and_deadlines_are_read_from_cells_lists_and_presets(folder) -> None:
    columns = "portrait,voice,prefer_regions,require_regions,avoid_regions,deadline"
    (row,) = rows(folder, f"{columns}\na.jpg,a.wav,eu-west  us-east,,ap,2026-05-01T12:00:00+02:00\n")
    wanted = {
        "prefer_regions": ("eu-west", "us-east"),
        "avoid_regions": ("ap",),
        "deadline": "2026-05-01T12:00:00+02:00",
    }
    assert row.wanted == wanted
    line = '{"portrait": "a.jpg", "voice": "a.wav", "require_regions": ["eu", "us"]}'
    (listed,) = rows(folder, line, "m.jsonl")
    assert listed.wanted == {"require_regions": ("eu", "us")}
    (folder / "p.toml").write_text('avoid_regions = ["x"]\ndeadline = 2026-05-01T12:00:00Z\n')
    preset = manifest.read_preset(folder / "p.toml")
    assert preset == {"avoid_regions": ("x",), "deadline": "2026-05-01T12:00:00+00:00"}


@pytest.mark.parametrize("deadline", ["10m", "tomorrow", "2026-05-01T12:00:00", "2026-13-01T12:00:00Z"])
def test_a_deadline_in_a_manifest_is_a_time_with_an_offset(folder, deadline) -> None:
    (row,) = rows(folder, f"portrait,voice,deadline\na.jpg,a.wav,{deadline}\n")
    assert isinstance(row, BadRow)
    assert [problem.field for problem in row.problems] == ["deadline"]
    assert "2026-05-01T12:00:00Z is wanted" in row.problems[0].description


def test_regions_that_are_no_names_are_named(folder) -> None:
    (row,) = rows(folder, '{"portrait": "a.jpg", "voice": "a.wav", "require_regions": [1]}', "m.jsonl")
    assert isinstance(row, BadRow)
    assert [problem.field for problem in row.problems] == ["require_regions"]
