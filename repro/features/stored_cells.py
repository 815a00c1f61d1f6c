"""Which cells of which clips a feature store holds."""

from repro.core.console import Reporter
from repro.core.files import set_aside
from repro.features.packed import DamagedFeaturesError
from repro.features.store import FeatureStore, read_clip_header
from repro.video.sampling import is_of_damaged_clip


class StoredCells:
    """Which of the requested cells a store has of a clip, in its packs or else in the clip's own file.

    Damaged files are renamed and count as missing.
    """

    def __init__(self, store: FeatureStore, cells: set[str], reporter: Reporter) -> None:
        self.store, self.requested, self.reporter = store, cells, reporter
        # Opened once: each pack is verified against its hash, and its index has a row per clip.
        self.packs = {
            cell: pack for cell in sorted(cells) if (pack := store.open_pack_or_set_aside(cell, reporter.warn))
        }

    def find(self, clip_id: str, video_sha256: str) -> set[str]:
        """Return the requested cells that are stored and were computed from this video."""
        packed = {
            cell
            for cell, pack in self.packs.items()
            if clip_id in pack.places and pack.places[clip_id].video_sha256 == video_sha256
        }
        # The packs are in memory; a clip's own file, which is newer, is only opened for cells that they do not have.
        if packed == self.requested:
            return packed
        path = self.store.clip_path(clip_id)
        try:
            entry = self.store.read_own_file(clip_id)
        except DamagedFeaturesError as error:
            if not path.exists():  # packed, or renamed, by another process in the meantime
                return packed
            aside = set_aside(path)
            self.reporter.warn(f"features {path}: damaged: {error}: kept as {aside.name}, extracting the clip again")
            return packed
        # Features of another video of the same name do not count: the clip is extracted again.
        own = set(entry.features) if entry is not None and entry.video_sha256 == video_sha256 else set()
        return packed | (own & self.requested)

    def is_damaged(self, clip_id: str, video_sha256: str) -> bool:
        """Whether stored features are of a damaged video: this one, as far as it decodes."""
        labels = [
            pack.places[clip_id].reader
            for pack in self.packs.values()
            if clip_id in pack.places and pack.places[clip_id].video_sha256 == video_sha256
        ]
        if not labels:
            try:
                header = read_clip_header(self.store.clip_path(clip_id))
            except DamagedFeaturesError:  # `find` reports it
                return False
            labels = [header.reader] if header is not None and header.video_sha256 == video_sha256 else []
        return any(is_of_damaged_clip(label) for label in labels)

    def has_all(self, clip_id: str) -> bool:
        """Whether all requested cells are stored. Videos are not compared, as that would read all of them again."""
        unpacked = {cell for cell in self.requested if cell not in self.packs or clip_id not in self.packs[cell].places}
        if not unpacked:
            return True
        try:
            header = read_clip_header(self.store.clip_path(clip_id))
        except DamagedFeaturesError:
            return False
        return header is not None and unpacked <= set(header.cells)
