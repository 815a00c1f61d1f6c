"""Renders the smoke job's clips to H.264 files and verifies stored ones."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from jaxtyping import UInt8

from repro.core.console import Reporter
from repro.core.files import replacing_file, set_aside, write_json
from repro.core.hashing import content_key, file_sha256
from repro.core.locks import remove_partials
from repro.core.reading import parse_json, read_text
from repro.datasets.split import Clip, Split, SplitName
from repro.video.synthetic import scenes
from repro.video.synthetic.figures import ACTIONS

ENCODING = {
    # A fixed quantiser, one thread, and no decision of the encoder in floating point: the same bytes on every processor.
    # Features depend on the file's bytes, because the noise is keyed by them.
    "qp": "24",
    "preset": "fast",
    "x264-params": "aq-mode=0:mbtree=0:threads=1:lookahead-threads=1:sliced-threads=0:cpu-independent=1:weightp=0",
}


def encode_scene(path: Path, scene: scenes.Scene, x264_params: str = "") -> None:
    """Write `scene` as an MP4 of H.264, yuv420p. `x264_params` is added to the encoder's own (for tests)."""
    options = dict(ENCODING)
    if x264_params:
        options["x264-params"] += f":{x264_params}"
    # bitexact leaves FFmpeg's version out of the file.
    with av.open(str(path), "w", format="mp4", options={"fflags": "+bitexact"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(scene.rate), options=options)
        stream.width, stream.height, stream.pix_fmt = scene.width, scene.height, "yuv420p"
        # Several threads may divide a frame into other slices, which changes the file.
        stream.codec_context.thread_count = 1
        for picture in scenes.pictures(scene):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(convert_to_yuv420(picture), format="yuv420p")))
        container.mux(stream.encode())


def convert_to_yuv420(picture: scenes.Picture) -> UInt8[np.ndarray, "rows W"]:
    """BT.601 studio-range Y, then U and V at half size, as PyAV takes them: `[3H/2, W]`. Integers only, so that no
    machine's choice of vector instructions changes a bit."""
    # The coefficients are BT.601's times 256, so + 128 and >> 8 divide by 256 and round.
    red, green, blue = np.moveaxis(picture.astype(np.int64), 2, 0)
    luma = (66 * red + 129 * green + 25 * blue + 128 >> 8) + 16
    chroma = np.stack([-38 * red - 74 * green + 112 * blue, 112 * red - 94 * green - 18 * blue])
    height, width = luma.shape
    # Chroma has half the size: each value is the mean of 2 x 2 pixels (256 * 4 = 1024), centred on 128.
    quarters = chroma.reshape(2, height // 2, 2, width // 2, 2).sum((2, 4))
    halved = (quarters + 512 >> 10) + 128
    return np.concatenate([luma, halved.reshape(-1, width)]).astype(np.uint8)


def render_clips(folder: Path, reporter: Reporter) -> dict[str, str]:
    """Render every clip of the smoke job to `folder`; returns each clip's sha256.

    A clip that differs from what was rendered is set aside (never deleted) and rendered again.
    """
    todo = scenes.smoke_scenes()
    # Everything that decides the clips' bytes, but the encoder's version: its bytes are compared with golden ones.
    key = content_key({"scenes": [s.as_json() for s in todo], "encoding": ENCODING, "version": scenes.SCENES_VERSION})
    manifest_path = folder / "manifest.json"
    known = _read_manifest(manifest_path, key)
    folder.mkdir(parents=True, exist_ok=True)
    remove_partials(folder)

    hashes: dict[str, str] = {}
    reused = 0
    with reporter.progress("render", len(todo)) as advance:
        for scene in todo:
            path = folder / f"{scene.id}.mp4"
            # A clip is reused only if its bytes are those that were rendered, not if its name exists.
            found = file_sha256(path) if path.is_file() else None
            if found is not None and found == known.get(scene.id):
                hashes[scene.id] = found
                reused += 1
            else:
                with replacing_file(path) as partial:
                    encode_scene(partial, scene)
                    hashes[scene.id] = file_sha256(partial)
                    if path.exists() and found != hashes[scene.id]:
                        aside = set_aside(path)
                        reporter.warn(f"{path}: not the clip that was rendered: kept as {aside.name}, rendered again")
            # Each clip is listed as soon as it is complete, so that a killed run resumes with the next one.
            write_json(
                manifest_path, {"key": key, "clips": hashes | {k: v for k, v in known.items() if k not in hashes}}
            )
            advance("")
    reporter.stage("clips", total=len(todo), reused=reused, made="rendered", where=folder)
    return hashes


def _read_manifest(path: Path, key: str) -> dict[str, str]:
    """Read the hashes of the clips rendered from these scenes; empty if there are none."""
    try:
        manifest = parse_json(read_text(path))
        return dict(manifest["clips"]) if manifest["key"] == key else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def rendered_splits(folder: Path) -> dict[str, Split]:
    """Train and test split of the rendered clips; the test split's species are not in the training split."""
    return {
        name: Split(
            name=SplitName("smoke", name),
            classes=ACTIONS,
            clips=tuple(
                Clip(scene.id, folder / f"{scene.id}.mp4", (ACTIONS.index(scene.action),))
                for scene in scenes.smoke_scenes()
                if scene.split == name
            ),
        )
        for name in ("train", "test")
    }
