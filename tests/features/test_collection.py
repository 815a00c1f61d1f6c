"""Collections: shards of a data set, and videos below a folder."""

from pathlib import Path

import numpy as np
import pytest

from repro.backbones.config import FrameSampling
from repro.datasets.config import load_dataset
from repro.datasets.split import Clip
from repro.features.collection import Collection, folder_collection


def test_shards_are_disjoint_and_together_all(rendered: dict[str, Path]) -> None:
    complete = Collection("clips", tuple(Clip(name, path, (0,)) for name, path in rendered.items()))
    lengths = dict.fromkeys(rendered, 1.0)
    first, *shards = (complete.take_shard(n, 3, lengths) for n in (1, 2, 3))
    # Parts of a part, as of two devices of the first machine.
    shards += [first.take_shard(n, 2, lengths) for n in (1, 2)]
    assert sorted(c.id for shard in shards for c in shard.clips) == sorted(c.id for c in complete.clips)
    assert {shard.part for shard in shards} == {"-2of3", "-3of3", "-1of3-1of2", "-1of3-2of2"}


@pytest.mark.parametrize(
    "split", ["animal_kingdom/full_train", "charades_ego/third_train", "ucf101/train", "hmdb51/full"]
)
@pytest.mark.parametrize("spread", [0.3, 1.2])
def test_8_shards_of_clips_as_long_as_the_published_ones_are_equally_long(split: str, spread: float) -> None:
    """Log-normal lengths with the split's number of clips and mean, listed by class, classes differing in length."""
    dataset, _, name = split.partition("/")
    facts, frames = load_dataset(dataset).splits[name], FrameSampling()
    number = facts.clips or facts.estimated_clips or 0
    assert number > 0
    assert facts.frames is not None
    mean = facts.frames.total / number if facts.frames.total else sum(facts.frames.mean or ()) / 2
    random = np.random.default_rng(number)
    native = np.sort(random.lognormal(np.log(mean) - spread**2 / 2, spread, number).clip(1))
    lengths = {f"{n}": float(frames.windows(frames.count_sampled(int(one), 25.0))) for n, one in enumerate(native)}
    complete = Collection(dataset, tuple(Clip(name, Path(name), ()) for name in lengths))
    totals = [sum(lengths[c.id] for c in complete.take_shard(n, 8, lengths).clips) for n in range(1, 9)]
    assert sum(totals) == sum(lengths.values())
    assert max(totals) / (sum(totals) / 8) < 1.1


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
    assert "files left out: 3, as" in suffixes
    assert "(.gif, none)" in suffixes
    assert "folders left out: 1, as they are links (more)" in links


def test_a_folder_of_videos_alone_has_no_notes(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(b"")
    assert folder_collection(tmp_path).notes == ()
