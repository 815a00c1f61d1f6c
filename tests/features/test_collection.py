"""Collections: shards of a data set, and videos below a folder."""

from pathlib import Path

from repro.datasets.split import Clip
from repro.features.collection import Collection, folder_collection


def test_shards_are_disjoint_and_together_all(rendered: dict[str, Path]) -> None:
    complete = Collection("clips", tuple(Clip(name, path, (0,)) for name, path in rendered.items()))
    shards = [complete.take_shard(n, 3) for n in (1, 2, 3)]
    assert sorted(c.id for shard in shards for c in shard.clips) == sorted(c.id for c in complete.clips)
    assert len({shard.part for shard in shards}) == 3


def test_a_folder_of_videos_is_walked_in_order(tmp_path: Path) -> None:
    for name in ("b.MP4", "a/c.avi", "a/notes.txt", ".hidden.mp4", "a/.cache/x.mp4", "z.webm"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    assert [clip.id for clip in folder_collection(tmp_path).clips] == ["a/c.avi", "b.MP4", "z.webm"]


def test_what_a_folder_leaves_out_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "videos"
    folder.mkdir()
    for name in ("a.3gp", "b.flv", "c.GIF", "d.gif", "README", ".hidden"):
        (folder / name).write_bytes(b"")
    (tmp_path / "elsewhere").mkdir()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    found = folder_collection(folder)
    assert [clip.id for clip in found.clips] == ["a.3gp", "b.flv"]
    suffixes, links = found.notes
    assert "3 files are left out" in suffixes
    assert "(.gif, none)" in suffixes
    assert "1 folders are left out, as they are links (more)" in links


def test_a_folder_of_videos_alone_has_no_notes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    assert folder_collection(tmp_path).notes == ()
