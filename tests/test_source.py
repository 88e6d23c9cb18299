"""What folders and tars hold: all ways to write a caption give the same clips, and every fault is told with its place."""

import io
import json
import os
import tarfile

import pyarrow
import pyarrow.parquet
import pytest

from motif_jax.data import captions, source, tars

ROWS = [dict(file="a.mp4", long="Long, of a.\nIt has \"two\" lines.", short="a", tags=["one", "two"], start=0.5, end=2.25),
        dict(file="sub/b.png", long="Only long. And more."),
        dict(file="c.mp4", short="only short")]
# What is left out is made of what is there.
MEANT = [("a.mp4@0.5-2.25", "Long, of a.\nIt has \"two\" lines.", "a", ("one", "two"), 0.5, 2.25),
         ("c.mp4", "only short", "only short", (), 0.0, None),
         ("sub/b.png", "Only long. And more.", "Only long.", (), 0.0, None)]


def described(folder, **options):
  found, skipped = source.read_source(folder, fps=24.0, **options)
  return [(clip.key, clip.long, clip.short, clip.tags, clip.start, clip.end) for clip in found], skipped


def fill(folder, *names):
  for name in names:
    (folder / name).parent.mkdir(exist_ok=True, parents=True)
    (folder / name).write_bytes(b"no video is opened here")
  return folder


def quoted(value):
  return '"' + ",".join(value if isinstance(value, list) else [str(value)]).replace('"', '""') + '"' if value is not None else ""


def write_table(path, rows):
  names = list(dict.fromkeys(name for row in rows for name in row))
  if path.suffix == ".jsonl":
    path.write_text("\n".join(map(json.dumps, rows)))
  elif path.suffix == ".csv":
    lines = [names] + [[quoted(row.get(name)) for name in names] for row in rows]
    path.write_bytes("\r\n".join(map(",".join, lines)).encode("utf-8-sig"))  # as a spreadsheet does
  else:
    table = pyarrow.table({name: [row.get(name) for row in rows] for name in names})
    pyarrow.parquet.write_table(table, path, row_group_size=2)


@pytest.mark.parametrize("suffix", captions.TABLES)
def test_all_kinds_of_tables_say_the_same(tmp_path, suffix):
  write_table(fill(tmp_path, "a.mp4", "sub/b.png", "c.mp4") / f"captions{suffix}", ROWS)
  assert described(tmp_path) == (MEANT, [])


@pytest.mark.parametrize("suffix", captions.TABLES)
def test_columns_may_have_other_names(tmp_path, suffix):
  columns = dict(file="path", long="text")
  rows = [{columns.get(name, name): value for name, value in row.items()} | {"other": 1} for row in ROWS]
  write_table(fill(tmp_path, "a.mp4", "sub/b.png", "c.mp4") / f"captions{suffix}", rows)
  assert described(tmp_path, columns=columns) == (MEANT, [])


def test_captions_may_stand_beside_a_video(tmp_path):
  fill(tmp_path, "a.mp4", "sub/b.png", "c.mp4", "d.mp4")
  (tmp_path / "a.json").write_text(json.dumps({name: value for name, value in ROWS[0].items() if name != "long"}))
  (tmp_path / "a.txt").write_text(ROWS[0]["long"] + "\n")
  (tmp_path / "sub/b.txt").write_text(ROWS[1]["long"])
  (tmp_path / "d.txt").write_text("not taken: a table describes d.mp4")
  (tmp_path / "c.json").write_text(json.dumps(dict(short="only short")))
  (tmp_path / "captions.jsonl").write_text('{"file": "d.mp4", "short": "d"}')
  found, skipped = described(tmp_path)
  assert found == MEANT[:2] + [("d.mp4", "d", "d", (), 0.0, None)] + MEANT[2:] and not skipped


def test_tags_make_a_short_caption_where_there_is_none(tmp_path):
  (fill(tmp_path, "a.mp4") / "captions.jsonl").write_text('{"file": "a.mp4", "long": "Long. More.", "tags": "red, , ball,red"}')
  assert described(tmp_path)[0] == [("a.mp4", "Long. More.", "red, ball", ("red", "ball"), 0.0, None)]


BAD_LINES = {
    b"{not json": "not JSON", b"[1]": "is a list", b"[" * 100_000: "nested too deeply", b"": None, b" \t": None,
    b'{"file": "a.mp4"}': "no caption", b'{"file": "a.mp4", "short": "  "}': "no caption", b'{"short": "x"}': "file is None",
    b'{"file": "a.mp4", "short": 3}': "short is 3, expected text", b'{"file": "a.mp4", "tags": {"x": 1}}': "tags is {'x': 1}",
    b'{"file": "a.mp4", "tags": [1]}': "tags is 1", b'{"file": "../a.mp4", "short": "x"}': "inside the folder",
    b'{"file": "/etc/a.mp4", "short": "x"}': "inside the folder", b'{"file": "a\\u0000.mp4", "short": "x"}': "inside the folder",
    b'{"file": "a.mp4", "short": "\\ud800"}': "no character", b'{"file": "a.mp4", "short": "\xff"}': "not UTF-8",
    b'{"file": "a.mp4", "short": "x", "start": -1}': "start is -1",
    b'{"file": "a.mp4", "short": "x", "start": true}': "start is True",
    b'{"file": "a.mp4", "short": "x", "start": 1' + b"0" * 400 + b"}": "start is 1000",
    b'{"file": "a.mp4", "short": "x", "start": NaN}': "start is nan",
    b'{"file": "a.mp4", "short": "x", "end": "soon"}': "end is 'soon'",
    b'{"file": "a.mp4", "short": "x", "start": 2, "end": 2}': "end is 2 s, expected more than start",
    b'{"file": "a.mp4", "short": "' + b"x" * (captions.ROW_BYTES + 5) + b'"}': "more than 1048576 bytes",
}


def test_a_bad_line_is_told_with_its_number_and_costs_no_other(tmp_path):
  (fill(tmp_path, "a.mp4") / "captions.jsonl").write_bytes(b"\n".join([*BAD_LINES, b'{"file": "a.mp4", "short": "good"}']))
  found, skipped = described(tmp_path)
  assert [key for key, *_ in found] == ["a.mp4"]
  told = {skip.name: skip for skip in skipped}
  expected = {f"captions.jsonl:{number}": said for number, said in enumerate(BAD_LINES.values(), 1) if said}
  assert {name: "told" if said in told[name].detail else told[name].detail for name, said in expected.items()} == dict.fromkeys(
      expected, "told")
  assert set(told) == set(expected) and all(skip.reason == "bad line" and len(skip.detail) < 250 for skip in skipped)


@pytest.mark.parametrize("name, content, said", [
    ("captions.csv", b"path,text\na.mp4,x\n", "its columns are path, text; expected file, and one of long, short, tags"),
    ("captions.csv", b'file,short\na.mp4,"never closed\n', "unexpected end of data"),
    ("captions.csv", b"file,short\na.mp4,\xff\n", "can't decode byte 0xff"),
    ("captions.csv", b"file,short\na.mp4," + b"x" * (captions.ROW_BYTES + 5), "has more than 1048576 characters"),
    ("captions.parquet", b"file,short\na.mp4,x\n", "Parquet"),
    ("captions.parquet", b"", "Parquet"),
])
def test_a_table_that_cannot_be_read_is_told(tmp_path, name, content, said):
  (fill(tmp_path, "a.mp4") / name).write_bytes(content)
  found, skipped = described(tmp_path)
  assert not found and [(skip.name, skip.reason) for skip in skipped] == [(name, "bad table"), ("a.mp4", "file without caption")]
  assert said in skipped[0].detail


def test_a_csv_row_with_too_many_values_is_told_and_costs_no_other(tmp_path):
  (fill(tmp_path, "a.mp4", "b.mp4") / "captions.csv").write_text("file,short\na.mp4,red, and blue\nb.mp4,green\n")
  found, skipped = described(tmp_path)
  assert [key for key, *_ in found] == ["b.mp4"] and skipped[0].name == "captions.csv:2" and "needs quotes" in skipped[0].detail


def test_a_parquet_row_group_that_would_fill_the_memory_is_refused(tmp_path, monkeypatch):
  monkeypatch.setattr(captions, "GROUP_BYTES", 100)
  write_table(fill(tmp_path, "a.mp4") / "captions.parquet", [dict(file="a.mp4", short="x" * 500)])
  assert "row group 0 holds" in described(tmp_path)[1][0].detail


def test_what_does_not_meet_is_told_once(tmp_path):
  fill(tmp_path, "a.mp4", "b.mp4")
  (tmp_path / "folder.mp4").mkdir()
  os.symlink("loop.mp4", tmp_path / "loop.mp4")
  os.mkfifo(tmp_path / "pipe.mp4")
  fill(tmp_path, os.fsdecode(b"\xff.mp4"), "packed.tar.gz")
  files = ["a.mp4", "a.mp4", "gone.mp4", "folder.mp4", "loop.mp4", "pipe.mp4"]
  write_table(tmp_path / "captions.jsonl", [dict(file=file, short="x") for file in files])
  found, skipped = described(tmp_path)
  assert [key for key, *_ in found] == ["a.mp4"]
  assert sorted((skip.reason, skip.name) for skip in skipped) == [
      ("bad name", "'\\udcff.mp4'"), ("bad tar", "packed.tar.gz"), *(("caption without file", name) for name in (
          "folder.mp4", "gone.mp4", "loop.mp4", "pipe.mp4")), ("duplicate caption", "a.mp4"), ("file without caption", "b.mp4")]


def test_a_folder_without_captions_is_refused(tmp_path):
  with pytest.raises(ValueError, match="does not exist"):
    described(tmp_path / "nowhere")
  with pytest.raises(ValueError, match="is empty"):
    described(tmp_path)
  with pytest.raises(ValueError, match="has no captions.jsonl, nor any other"):
    described(fill(tmp_path, "a.mp4"))


def write_tar(path, members, **options):
  with tarfile.open(path, "w", **options) as tar:
    for name, content in members:
      info = tarfile.TarInfo(name)
      info.size = len(content)
      tar.addfile(info, io.BytesIO(content))
  return path


SAMPLES = [("x/1.json", b'{"short": "one", "tags": ["t"]}'), ("x/1.txt", b"Long one. More."), ("x/1.mp4", b"video one"),
           ("x/2.jpg", b"image two"), ("x/2.txt", b"two"), ("x/2.cls", b"7"), ("x/" + "n" * 150 + ".png", b"three"),
           ("x/" + "n" * 150 + ".txt", b"long name")]


@pytest.mark.parametrize("layout", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_the_samples_of_a_tar_are_clips_whose_bytes_are_known(tmp_path, layout):
  path = write_tar(fill(tmp_path, "s/0.txt") / "s/0.tar", SAMPLES[:None if layout != tarfile.USTAR_FORMAT else 6], format=layout)
  found, skipped = source.read_source(tmp_path, fps=24.0)
  content = path.read_bytes()
  taken = {clip.key: (clip.file, content[clip.span[0]:sum(clip.span)], clip.long, clip.short, clip.tags) for clip in found}
  expected = {"s/0.tar/x/1.mp4": ("s/0.tar", b"video one", "Long one. More.", "one", ("t",)),
              "s/0.tar/x/2.jpg": ("s/0.tar", b"image two", "two", "two", ()),
              f"s/0.tar/x/{'n' * 150}.png": ("s/0.tar", b"three", "long name", "long name", ())}
  assert taken == {key: value for key, value in expected.items() if layout != tarfile.USTAR_FORMAT or len(key) < 99}
  assert not skipped


def test_a_table_may_describe_what_lies_in_a_tar(tmp_path):
  write_tar(tmp_path / "0.tar", SAMPLES[:4])
  rows = [dict(file="0.tar/x/2.jpg", short="from the table"), dict(file="0.tar/x/1.mp4", short="new")]
  write_table(tmp_path / "captions.csv", rows)
  found, skipped = described(tmp_path)
  assert [(key, short) for key, _, short, *_ in found] == [("0.tar/x/1.mp4", "new"), ("0.tar/x/2.jpg", "from the table")]
  assert not skipped


def test_names_in_a_tar_reach_no_file_system(tmp_path):
  inside = tmp_path / "in" / "deep"
  inside.mkdir(parents=True)
  write_tar(inside / "0.tar", [("../../out.mp4", b"video"), ("../../out.txt", b"caption"), ("/abs.mp4", b"v"), ("/abs.txt", b"c"),
                                ("./dot.mp4", b"v"), ("./dot.txt", b"c")])
  before = sorted(tmp_path.rglob("*"))
  found, skipped = described(inside)
  assert [key for key, *_ in found] == ["0.tar/abs.mp4", "0.tar/dot.mp4"]
  assert [skip.reason for skip in skipped] == ["bad caption"] and "inside the folder" in skipped[0].detail
  assert sorted(tmp_path.rglob("*")) == before


def spoil_tar(path, how):
  content = bytearray(write_tar(path, SAMPLES).read_bytes())
  if how == "cut in a video":
    content = content[:5 * 512 + 4]
  elif how == "cut in a header":
    content = content[:8 * 512 + 100]
  elif how == "damaged header":
    content[8 * 512:8 * 512 + 4] = b"\xff" * 4
  elif how == "text":
    content = b"not a tar\n" * 200
  elif how == "empty":
    content = b""
  elif how == "long name":
    info = tarfile.TarInfo("././@LongLink")
    info.type, info.size = tarfile.GNUTYPE_LONGNAME, tars.HEADER_BYTES + 1
    content[8 * 512:] = info.tobuf() + bytes(200 * 512)
  path.write_bytes(content)


@pytest.mark.parametrize("how, whole, said", [
    ("cut in a video", 0, "cut short"), ("cut in a header", 1, ""), ("damaged header", 1, "header at byte 4096 is damaged"),
    ("text", 0, ""), ("empty", 0, "empty"), ("long name", 1, "a name or its attributes take 65537 bytes")])
def test_a_spoiled_tar_is_told_and_what_is_whole_is_taken(tmp_path, how, whole, said):
  spoil_tar(fill(tmp_path, "other.mp4", "other.txt") / "0.tar", how)
  found, skipped = source.read_source(tmp_path, fps=24.0)
  assert [clip.key for clip in found] == ["0.tar/x/1.mp4"] * whole + ["other.mp4"]
  (skip,) = skipped
  assert (skip.name, skip.reason) == ("0.tar", "bad tar") and said in skip.detail


def test_faults_within_a_tar_are_told(tmp_path):
  write_tar(tmp_path / "0.tar", [("1.mp4", b"v"), ("1.txt", b"\xff"), ("2.txt", b"no video"), ("3.mp4", b"v"), ("4.mp4", b"v"),
                                 ("4.json", b'{"short": 4}'), ("5.mp4", b"v"), ("5.txt", b"first"), ("6.png", b"v"),
                                 ("5.mp4", b"again"), ("5.txt", b"second")])
  found, skipped = described(tmp_path)
  assert [(key, long) for key, long, *_ in found] == [("0.tar/5.mp4", "first")]
  assert sorted((skip.name, skip.reason) for skip in skipped) == [
      ("0.tar", "caption without file"), ("0.tar/1.mp4", "bad caption"), ("0.tar/3.mp4", "file without caption"),
      ("0.tar/4.mp4", "bad caption"), ("0.tar/5.mp4", "duplicate file"), ("0.tar/6.png", "file without caption")]
