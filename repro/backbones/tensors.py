"""Every tensor of a checkpoint accounted for, whoever's it is."""

from collections.abc import Mapping

from repro.core.errors import MissingError

Layout = dict[str, tuple[int, ...]]
"""Tensor names and shapes as the published file has them."""


def account_for(
    where: str, found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], unused: tuple[str, ...]
) -> None:
    """`found` is what is `wanted`, and beside it only what begins with a name known to be of no use.

    Raises:
        MissingError: tensors missing, unknown or of another shape; the first three are named.
    """
    missing = [name for name in wanted if name not in found]
    unknown = [name for name in found if name not in wanted and not name.startswith(unused)]
    misshapen = [
        f"{name} is {list(found[name])}, expected {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    for problem, culprits in (("missing", missing), ("unknown", unknown), ("wrongly shaped", misshapen)):
        if culprits:
            more = f" and {len(culprits) - 3} more" if len(culprits) > 3 else ""
            raise MissingError(
                f"{where}: {len(culprits)} tensors {problem}: {', '.join(culprits[:3])}{more}: "
                "this is not the checkpoint the config describes"
            )
