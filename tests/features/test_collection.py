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
