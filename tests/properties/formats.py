"""Every format that this project reads: how a file of it comes about, how it is read, and how it is refused."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from builders import records, tiny_datasets
from builders.commands import ROOT
from properties import mutations as change
from properties.mutations import TreeChange
from safetensors.numpy import save_file

from repro.backbones.comparison import read_golden
from repro.backbones.registry import load_backbone
from repro.backbones.vit.checkpoint import open_encoder, write_random_encoder
from repro.backbones.vit.config import VitConfig
from repro.backbones.vit.family import VjepaFamily
from repro.core.config import configs_folder, expected_folder, load_config
from repro.core.errors import ReproError
from repro.core.hashing import FileHashes, content_sha256
from repro.core.workspace import Workspace
from repro.datasets import registry
from repro.datasets.animal_kingdom import read_animal_kingdom
from repro.datasets.audit import Journal
from repro.datasets.charades_ego import read_charades
from repro.datasets.config import DatasetConfig
from repro.datasets.labels import labels_path, read_labels, write_labels
from repro.datasets.manifest import ClipFacts, Manifest, read_manifest, write_manifest
from repro.datasets.own import load_own_dataset
from repro.datasets.ucf_hmdb import read_hmdb, read_ucf
from repro.features import packed as pack
from repro.features.packed import DamagedFeaturesError, Place
from repro.features.rates import DamagedRatesError, load_rates
from repro.features.shared import Card, SharedFeatures, hash_index, read_shared, write_shared
from repro.features.spent import load_spent
from repro.features.store import Entry, FeatureStore, read_clip_file, read_clip_header
from repro.fetch.file_state import read_origin
from repro.judge.claims.judging import load_claims
from repro.judge.expected import load_expected, read_pins, rows_with_expected, table_path
from repro.judge.kept import Computation, Memory, dump_arrays, parse_arrays
from repro.pipeline.bundle.read import open_bundle
from repro.readout.checkpoints import read_header, write_tensors
from repro.readout.heads import build_head
from repro.readout.predictions import Predictions, read_predictions, to_probabilities, write_predictions
from repro.readout.trained import load_readout
from repro.records.record import DamagedRecordError, StoredRun
from repro.records.training_log import load_training_log
from repro.table.own import load_own_row
from repro.table.row import Row

Changer = Callable[[bytes, list[TreeChange]], bytes]
NOTHING = "nothing"
"""What a file gives that can be made again, if it is damaged."""
EXAMPLE = ROOT / "examples" / "evidence" / "smoke.zip"


@dataclass(frozen=True)
class Format:
    name: str
    make: Callable[[Path], Path]
    """Writes an intact file, and what it belongs to, into an empty folder."""
    read: Callable[[Path], Any]
    refused: tuple[type[Exception], ...] = (ReproError,)
    changers: dict[str, Changer] = field(default_factory=dict)
    """Changes of its values, by name."""
    is_signed: bool = False
    """No bytes but its own are read as something else."""
    is_named: bool = True
    """What it raises names the file; else its caller does."""
    is_slow: bool = False
    """It imports for seconds, and is tried in long runs alone."""
    examples: float = 1.0
    """Share of the examples that are tried: of slow ones fewer."""


def _copied(source: Path) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copy(source, folder))


def _own_sign(value: dict[str, Any]) -> bytes:
    return json.dumps({**value, "sha256": content_sha256(value)}).encode()


JSON = {"values": change.change_json}
SIGNED = {"values": change.change_json, "forged": partial(change.sign_after, _own_sign)}
LINES = {"values": change.change_json_lines}
TABLE = {"values": change.change_table}
HEADER = {"values": change.change_header}


# Data sets.


def _make_dataset(name: str, file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        tiny_datasets.MAKERS[name](folder / name, films=False)
        return folder / name / file

    return make


def _read_dataset(
    adapter: Callable[[Path, DatasetConfig], Any], name: str, levels: int, **counts: int
) -> Callable[[Path], Any]:
    config = tiny_datasets.config(name, **counts)
    return lambda path: adapter(path.parents[levels], config).splits


def _make_own_csv(folder: Path) -> Path:
    lines = "".join(
        f"clips/{n}.mp4,{'walk' if n % 2 else 'eat;run'},{'test' if n > 7 else 'train'},g{n}\n" for n in range(12)
    )
    (folder / "my.csv").write_text(f"path,label,split,group\n{lines}")
    (folder / "my.yaml").write_text("clips: my.csv\nlabels: multi\n")
    return folder / "my.csv"


def _make_own_parquet(folder: Path) -> Path:
    rows = [{"path": f"{n}.mp4", "label": ["walk"] if n % 2 else ["eat", "run"], "group": f"g{n}"} for n in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "my.parquet")
    (folder / "my.yaml").write_text("clips: my.parquet\n")
    return folder / "my.parquet"


def _read_own(path: Path) -> Any:
    return load_own_dataset(path.with_name("my.yaml")).own_listing.splits


def _make_own_row(folder: Path) -> Path:
    _make_own_csv(folder)
    path = folder / "my_row.yaml"
    path.write_text(json.dumps({"data": "my.yaml", "backbone": "mean_colour", "readout": {"epochs": 2}, "seed": 3}))
    return path


def _make_listing(folder: Path) -> Path:
    config = tiny_datasets.ucf101(folder / "data" / "ucf101", films=False)
    registry.list_dataset(config, Workspace(folder))
    (path,) = (folder / "listings").glob("*")
    return path


def _read_listing(path: Path) -> Any:
    listing = registry._read_listing(path, path.parents[1] / "data" / "ucf101")
    return NOTHING if listing is None else listing.splits


def _make_labels(folder: Path) -> Path:
    write_labels(Workspace(folder), "ucf101", _labels())
    return labels_path(Workspace(folder), "ucf101")


def _labels() -> Any:
    from repro.datasets.labels import Labels, SplitLabels

    clips = (("a", (0,), "g", "x.txt:1"), ("b", (1,), "", "x.txt:2"))
    return Labels(key="0" * 16, notes=("n",), splits={"train": SplitLabels(classes=("x", "y"), clips=clips)})


FACTS = ClipFacts("a", "x/a.mp4", ("train",), True, 10, 9, 25.0, 64, 48, 0.4, "pyav", "", "0" * 64)


def _make_manifest(folder: Path) -> Path:
    clips = (FACTS, dataclasses.replace(FACTS, id="b", error="damaged", frames=0))
    write_manifest(folder / "manifest.parquet", Manifest("ucf101", "0" * 16, clips))
    return folder / "manifest.parquet"


def _make_journal(folder: Path) -> Path:
    from repro.core.hashing import FileStamp
    from repro.video.probe import ClipContents, Probe

    path = folder / "journal.jsonl"
    journal = Journal(path)
    for n in range(3):
        probe = Probe(folder / f"{n}.mp4", "0" * 64, "pyav", ClipContents(9, 25.0, 64, 48, 0.4, still=False))
        journal.append_result(FileStamp(str(probe.path), 10, n, n, n), probe)
    return path


# Configs and what rows are judged by.


def _make_config(name: str) -> Callable[[Path], Path]:
    """A shipped config as JSON, which YAML holds, together with its folder, which has what it extends."""

    def make(folder: Path) -> Path:
        shutil.copytree(configs_folder() / name.split("/", maxsplit=1)[0], folder / "configs")
        return folder / "configs" / name.split("/")[1]

    return make


def _change_yaml(content: bytes, changes: list[TreeChange]) -> bytes:
    import yaml

    return change.write_tree(change.change_tree(yaml.safe_load(content), changes)).encode("utf-8", "replace")


YAML = {"values": _change_yaml}


def _make_rules(file: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        shutil.copytree(expected_folder() / "rules-1", folder / "rules")
        return folder / "rules" / file

    return make


@cache
def _rows() -> Any:
    return rows_with_expected(table_path())


# Records.


def _make_record(folder: Path) -> Path:
    return records.write(folder / "runs", records.record("ucf_hmdb", 1, 0.5)).record_path


def _read_record(path: Path) -> Any:
    return StoredRun(path.parent).load_record()


def _sign_record(value: dict[str, Any]) -> bytes:
    return _own_sign(value)


def make_predictions(clips: int = 6) -> tuple[Predictions, dict[int, np.ndarray]]:
    random = np.random.default_rng(1)
    logits = {n: random.standard_normal((clips, 3)).astype(np.float32) for n in (1, 3)}
    targets = np.zeros((clips, 3), np.int64)
    targets[np.arange(clips), np.arange(clips) % 3] = 1
    by_epoch = {n: to_probabilities(values, "softmax") for n, values in logits.items()}
    predicted = {2: np.zeros(clips, np.uint16)}
    names = tuple(f"clip {n}" for n in range(clips))
    groups = tuple("g" if n else None for n in range(clips))
    return Predictions(names, ("a", "b", "c"), targets, by_epoch, groups, predicted), logits


def _make_predictions(folder: Path) -> Path:
    predictions, logits = make_predictions()
    write_predictions(folder / "predictions.parquet", predictions, logits, "softmax")
    return folder / "predictions.parquet"


def _make_earlier_predictions(folder: Path) -> Path:
    records.write_earlier_predictions(folder / "predictions.parquet", make_predictions()[0])
    return folder / "predictions.parquet"


def _read_predictions(path: Path) -> Any:
    found = read_predictions(path)
    arrays = (found.targets, *found.by_epoch.values(), *found.predicted.values(), *found.at_least.values())
    # Not by bytes alone: a class more is another shape.
    return found.clips, found.classes, found.groups, [(array.shape, array.tobytes()) for array in arrays]


def _make_training_log(folder: Path) -> Path:
    from repro.records.training_log import StartedRun, open_training_log

    made = records.record("ucf_hmdb", 1, 0.5)
    values = {name: getattr(made, name) for name in StartedRun.model_fields}
    with open_training_log(folder / "training.jsonl", StartedRun(**values), resumes=False) as log:
        log.write_epoch(made.epochs[0], {"cpu": 1.0})
        log.write_failure("x")
    return folder / "training.jsonl"


# Readouts and checkpoints.


def _make_readout(folder: Path) -> Path:
    from builders.planted import recipe

    asked = recipe(heads=2)
    torch.manual_seed(0)
    model = build_head(asked, 4, 2)
    about = {
        "row": "r", "backbone": "b", "cell": "final", "features": "k", "class_names": ["x", "y"], "epoch": 2,
        "asked": {"recipe": asked.model_dump(mode="json"), "width": 4, "seed": 1},
    }  # fmt: skip
    write_tensors(folder / "last_epoch.safetensors", model.state_dict(), about)
    return folder / "last_epoch.safetensors"


def _read_readout(path: Path) -> Any:
    found = load_readout(path)
    weights = {name: values.numpy().tobytes() for name, values in found.model.state_dict().items()}
    return found.recipe, found.classes, found.row, found.cell, found.seed, found.epoch, weights


def _forge_about(content: bytes, changes: list[TreeChange]) -> bytes:
    """Change `about` of a file of arrays and sign it again."""
    import struct
    from hashlib import sha256

    from safetensors.numpy import load, save

    (length,) = struct.unpack("<Q", content[:8])
    about = json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["about"])
    del about["sha256"]
    arrays = load(content)
    tree = change.write_tree(change.change_tree(about, changes))
    try:
        value = json.loads(tree)
        digest = sha256(json.dumps(value, sort_keys=True).encode())
        for name in sorted(arrays):
            digest.update(f"{name} {arrays[name].dtype} {tuple(arrays[name].shape)}".encode())
            digest.update(arrays[name].tobytes())
        tree = json.dumps({**value, "sha256": digest.hexdigest()})
    except (ValueError, TypeError, RecursionError):
        pass
    return save(arrays, {"about": tree.encode("utf-8", "replace").decode()})


ARRAYS = {"values": change.change_header, "forged": _forge_about}


def _vjepa() -> VitConfig:
    config = load_backbone("vjepa_tiny")
    assert isinstance(config, VitConfig)
    return config


def _make_encoder(folder: Path) -> Path:
    write_random_encoder(folder / "encoder.safetensors", _vjepa(), VjepaFamily.layout, 1)
    return folder / "encoder.safetensors"


def _make_pickled_encoder(folder: Path) -> Path:
    from safetensors.torch import load_file

    torch.save({"target_encoder": load_file(_make_encoder(folder))}, folder / "encoder.pth.tar")
    return folder / "encoder.pth.tar"


def _read_encoder(path: Path) -> Any:
    found = open_encoder(path, _vjepa(), VjepaFamily.layout)
    return {name: values.numpy().tobytes() for name, values in found.tensors.items()}


def _make_svd(folder: Path) -> Path:
    save_file(
        {f"a.{n}": np.full((2, 3), n, np.float32) for n in range(4)}, folder / "svd.safetensors", {"format": "pt"}
    )
    return folder / "svd.safetensors"


def _read_svd(path: Path) -> Any:
    from repro.backbones.svd.checkpoint import open_checkpoint

    file = open_checkpoint(path, {f"a.{n}": (2, 3) for n in range(4)})
    return sorted(file.keys())


def _make_golden(folder: Path) -> Path:
    save_file({"features": np.ones((2, 3), np.float32)}, folder / "window.safetensors")
    return folder / "window.safetensors"


def _read_golden(path: Path) -> Any:
    return [(file, sorted(arrays)) for file, arrays in read_golden(path.parent)]


def _make_merges(folder: Path) -> Path:
    from builders import tiny_text_tower

    tiny_text_tower.write_merges(folder / "merges.txt.gz")
    return folder / "merges.txt.gz"


def _read_merges(path: Path) -> Any:
    from builders import tiny_text_tower

    from repro.backbones.svd.text import load_tokenizer

    return load_tokenizer(path, tiny_text_tower.TOWER.vocabulary).get_vocab()


# Features.


def _entry(seed: int = 0) -> Entry:
    values = np.random.default_rng(seed).standard_normal((3, 4)).astype(np.float32)
    return Entry({"final": values, "other": values + 1}, "0" * 64, "pyav", ("o",))


def _store(folder: Path) -> FeatureStore:
    return FeatureStore.open(Workspace(folder), "test", {"a": 1}, "clips")


def _make_clip_features(folder: Path) -> Path:
    _store(folder).write_clip("c", _entry())
    return _store(folder).clip_path("c")


def _read_clip_features(path: Path) -> Any:
    found = read_clip_file(path)
    assert found is not None
    clip, entry = found
    return clip, {n: v.tobytes() for n, v in entry.features.items()}, entry.video_sha256, entry.reader, entry.origins


def _read_clip_header(path: Path) -> Any:
    header = read_clip_header(path)
    assert header is not None
    return dataclasses.replace(header, written=0)


def _make_pack(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        from repro.features.pack_collection import add_to_pack

        entry = _entry()
        entries = {f"c{n}": dataclasses.replace(entry, features={"final": entry.features["final"]}) for n in range(3)}
        add_to_pack(_store(folder), "final", entries)
        (path,) = (_store(folder).folder / "packed").glob(f"*{suffix}")
        return path

    return make


def _read_pack(path: Path) -> Any:
    # Not the same hashes for two contents of a file that changed within a tick of the clock.
    found = pack.open_pack(path.parent, "final", FileHashes(path.with_name("none")))
    assert found is not None
    listed = pack.list_packed_clips(path.parent, "final")
    return listed, found.places, {clip: found.clip_values(clip).tobytes() for clip in found.places}


def _make_shared(suffix: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        places = {"final": {clip: Place(3 * n, 3, "0" * 64, "pyav", ()) for n, clip in enumerate("ab")}}
        card = Card(
            what="w", made_by="m", dataset="ucf101", source="ucf101", clips=2, cells=("final",), backbone="b", precision="p",
            key="0" * 16, identity={"a": 1}, stored_as="float32", checkpoint={}, readers={"pyav": 2}, origins={},
            annotations="0" * 16, manifest=None, licence="l", licence_url=None, publisher="p", cite=(),
            index_sha256=hash_index(places, _labels()),
        )  # fmt: skip
        arrays = {"final": np.arange(24, dtype=np.float32).reshape(6, 4)}
        write_shared(folder / "shared.safetensors", SharedFeatures(card, arrays, places, _labels()))
        return folder / f"shared{suffix}"

    return make


def _read_shared(path: Path) -> Any:
    found = read_shared(path.with_suffix(".safetensors"))
    return found.card, found.places, found.labels, {n: v.tobytes() for n, v in found.arrays.items()}


# What else a workspace has.


def _make_rates(folder: Path) -> Path:
    from repro.features.rates import rates_path, record_rate

    record_rate(Workspace(folder), "b", {"a": 1}, ["final"], {"device": "cpu"}, 10, 2.5)
    return rates_path(Workspace(folder))


def _make_spent(folder: Path) -> Path:
    from repro.features.spent import SpentLog

    SpentLog(folder, "ucf101", {"b": "k"}, "cpu").save(10, 2.5, {"decoder": 0.5}, at_end=True)
    (path,) = (folder / "spent").glob("*.json")
    return path


def _make_status(folder: Path) -> Path:
    from repro.core.progress.stages import Work
    from repro.core.progress.status_files import StatusFile

    work = Work("repro smoke")
    file = StatusFile(folder, work, "cpu")
    file._write("done", "")
    (path,) = folder.glob("*.json")
    return path


def _read_statuses(path: Path) -> Any:
    from repro.core.progress.statuses import read_statuses

    return read_statuses(path.parent)


def _make_hashes(folder: Path) -> Path:
    from repro.core.hashing import FileStamp

    hashes = FileHashes(folder / "hashes.jsonl")
    for n in range(3):
        hashes._add(FileStamp(f"/x/{n}", n, n, n, n), "0" * 64)
    return folder / "hashes.jsonl"


def _read_hashes(path: Path) -> Any:
    return FileHashes(path)._known


def _kept(path: Path) -> Memory[int, dict[str, np.ndarray]]:
    arrays = {"a": np.arange(3.0)}
    computation = Computation(
        "c" * 64,
        lambda _: arrays,
        lambda _, known: str(known) == str(arrays),
        lambda found: {"arrays": dump_arrays(found)},
        lambda raw: parse_arrays(raw["arrays"]),
    )
    return Memory(computation, path)


def _make_kept(folder: Path) -> Path:
    _kept(folder / "rescored.jsonl").recall({f"k{n}": n for n in range(3)})
    return folder / "rescored.jsonl"


def _read_kept(path: Path) -> Any:
    # Whatever is in the file, the results are those of the computation.
    return str(_kept(path).recall({f"k{n}": n for n in range(3)}))


def _forge_kept(content: bytes, changes: list[TreeChange]) -> bytes:
    lines = content.splitlines()
    at = changes[0][1] % len(lines)
    lines[at] = change.sign_after(_own_sign, lines[at], changes)
    return b"\n".join(lines)


def _make_stamp(folder: Path) -> Path:
    Workspace(folder / "workspace").require_writable()
    return folder / "workspace" / "workspace.json"


def _read_stamp(path: Path) -> Any:
    Workspace(path.parent).require_readable()
    return True


def _make_part(folder: Path) -> Path:
    from repro.fetch.download import _PartInfo, _write_part_info

    part = folder / "file.part"
    part.write_bytes(b"x" * 10)
    _write_part_info(part, _PartInfo(source="s", validator="v", total=20))
    return folder / "file.part.json"


def _read_part(path: Path) -> Any:
    from repro.fetch.download import DownloadSource, _count_received

    source = DownloadSource(url="https://localhost/file", sha256="0" * 64, bytes=20)
    return _count_received(source, path.with_name("file.part"))


def _make_prepared(folder: Path) -> Path:
    (folder / ".prepared.json").write_text(json.dumps({"key": ["a", "b"]}))
    return folder / ".prepared.json"


def _read_prepared(path: Path) -> Any:
    from repro.datasets.prepare import _read_record as read

    return read(path)


def _make_origin(folder: Path) -> Path:
    origin = {"sha256": "0" * 64, "sha256_is": "published", "original": {"sha256": "1" * 64}}
    (folder / "weights.origin.json").write_text(json.dumps(origin))
    return folder / "weights.origin.json"


def _inspect_origin(path: Path) -> Any:
    from repro.core.remote_file import RemoteFile
    from repro.fetch.file_state import inspect_file

    weights = path.with_name("weights")
    weights.write_bytes(b"x")
    remote = RemoteFile(file="weights", url="https://localhost/weights", size="1 MB")
    return read_origin(weights), inspect_file(weights, remote, FileHashes(path.with_name("hashes")))


# Bundles.


def _read_bundle(path: Path) -> Any:
    with open_bundle(path, lambda name: None) as opened:
        return opened.manifest, opened.records, opened.index


def _change_member(member: str, change_it: Changer, content: bytes, changes: list[TreeChange]) -> bytes:
    """Change a file of a bundle, and sign again what a forger can sign."""
    import io
    import zipfile
    from hashlib import sha256

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith(member))
    files[name] = change_it(files[name], changes)
    if name != "bundle.json":
        listed = {n: {"sha256": sha256(c).hexdigest(), "bytes": len(c)} for n, c in files.items() if n != "bundle.json"}
        raw = json.loads(files["bundle.json"]) | {"files": listed}
        del raw["sha256"]
        files["bundle.json"] = _own_sign(raw)
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for one, inner in files.items():
            archive.writestr(one, inner)
    return target.getvalue()


FORGED = partial(change.sign_after, _own_sign)
BUNDLE: dict[str, Changer] = {
    "manifest": partial(_change_member, "bundle.json", FORGED),
    "record": partial(_change_member, "record.json", FORGED),
    "index": partial(_change_member, "features.index", change.change_json),
    "predictions": partial(_change_member, "predictions.parquet", change.change_table),
}

FEATURES = (DamagedFeaturesError,)

FORMATS: tuple[Format, ...] = (
    Format("UCF101 list", _make_dataset("ucf101", "ucfTrainTestlist/trainlist01.txt"), _read_dataset(read_ucf, "ucf101", 1)),
    Format(
        "HMDB51 list", _make_dataset("hmdb51", "testTrainMulti_7030_splits/climb_test_split1.txt"),
        _read_dataset(read_hmdb, "hmdb51", 1),
    ),
    Format(
        "Charades-Ego csv", _make_dataset("charades_ego", "CharadesEgo/CharadesEgo_v1_train_only1st.csv"),
        _read_dataset(read_charades, "charades_ego", 1),
    ),
    Format(
        "Charades-Ego classes", _make_dataset("charades_ego", "CharadesEgo/Charades_v1_classes.txt"),
        _read_dataset(read_charades, "charades_ego", 1),
    ),
    Format(
        "Animal Kingdom workbook", _make_dataset("animal_kingdom", "AR_metadata.xlsx"),
        _read_dataset(read_animal_kingdom, "animal_kingdom", 0), changers={"values": change.change_workbook}, examples=0.4,
    ),
    Format("own csv", _make_own_csv, _read_own),
    Format("own parquet", _make_own_parquet, _read_own, changers=TABLE),
    Format("own row", _make_own_row, load_own_row, changers=JSON, is_named=False),
    Format("cached listing", _make_listing, _read_listing, is_signed=True),
    Format("imported labels", _make_labels, lambda path: read_labels(Workspace(path.parents[1]), "ucf101") or NOTHING, is_signed=True),
    Format("audit manifest", _make_manifest, read_manifest, changers=TABLE),
    Format("audit journal", _make_journal, lambda path: Journal(path)._known, changers=LINES),
    Format("row", _make_config("rows/ak_full.yaml"), lambda path: load_config(Row, path), changers=YAML),
    Format("backbone", _make_config("backbones/vjepa_tiny.yaml"), lambda path: load_config(VitConfig, path), changers=YAML),
    Format("data set", _make_config("datasets/ucf101.yaml"), lambda path: load_config(DatasetConfig, path), changers=YAML),
    Format("expected table", _make_rules("results.csv"), load_expected),
    Format("pinned configs", _make_rules("configs.sha256"), lambda path: read_pins(path)),
    Format(
        "claims", _make_rules("claims.yaml"), lambda path: load_claims(path, _rows()), changers=YAML,
    ),
    Format("record", _make_record, _read_record, (DamagedRecordError,), SIGNED, is_signed=True),
    Format("predictions", _make_predictions, _read_predictions, changers=TABLE),
    Format("earlier predictions", _make_earlier_predictions, _read_predictions, changers=TABLE),
    Format("training log", _make_training_log, load_training_log, changers=LINES),
    Format("trained readout", _make_readout, _read_readout, changers=ARRAYS, is_signed=True),
    Format("header of a readout", _make_readout, lambda path: read_header(path) or NOTHING, changers=HEADER),
    Format("encoder", _make_encoder, _read_encoder, changers=HEADER),
    Format("pickled encoder", _make_pickled_encoder, _read_encoder),
    Format("diffusion checkpoint", _make_svd, _read_svd, changers=HEADER),
    Format("golden window", _make_golden, _read_golden, changers=HEADER),
    Format("merges", _make_merges, _read_merges, is_slow=True),
    Format("features of a clip", _make_clip_features, _read_clip_features, FEATURES, ARRAYS, is_signed=True, is_named=False),
    Format("header of a clip's features", _make_clip_features, _read_clip_header, FEATURES, ARRAYS, is_named=False),
    Format("index of packed features", _make_pack(".parquet"), _read_pack, FEATURES, TABLE, is_named=False),
    Format("packed features", _make_pack(".npy"), _read_pack, FEATURES, is_signed=True, is_named=False),
    Format("shared features", _make_shared(".safetensors"), _read_shared, changers=ARRAYS, is_signed=True),
    Format("index of shared features", _make_shared(".parquet"), _read_shared, changers=TABLE, is_signed=True),
    Format("rates", _make_rates, lambda path: load_rates(Workspace(path.parent)), (DamagedRatesError,), JSON),
    Format("spent time", _make_spent, lambda path: load_spent(Workspace(path.parents[1])), changers=JSON),
    Format("status", _make_status, _read_statuses, changers=JSON),
    Format("hashes", _make_hashes, _read_hashes, changers=LINES),
    Format("kept results", _make_kept, _read_kept, changers={"values": change.change_json_lines, "forged": _forge_kept}, is_signed=True),
    Format("workspace", _make_stamp, _read_stamp, changers=JSON),
    Format("unfinished download", _make_part, _read_part, changers=JSON),
    Format("prepared archives", _make_prepared, _read_prepared, changers=JSON),
    Format("origin of a download", _make_origin, _inspect_origin, changers=JSON),
    Format("bundle", _copied(EXAMPLE), _read_bundle, changers=BUNDLE, is_signed=True, examples=0.1),
)  # fmt: skip
