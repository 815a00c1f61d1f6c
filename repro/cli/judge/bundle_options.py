"""Options of `repro check --bundle`."""

import dataclasses
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from repro.cli.options import DeviceOption, require_number


@Parameter(name="*")
@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class BundleOptions:
    """How far a bundle is checked beyond its own evidence."""

    sample: Annotated[
        int | None,
        Parameter(
            validator=require_number("--sample", 1),
            help="With --bundle, number of random clips of each data set to extract again and compare.",
        ),
    ] = None
    nonce: Annotated[
        str | None, Parameter(help="With --sample, text that decides which clips [default: a new one, printed].")
    ] = None
    repeat_readout: Annotated[
        bool,
        Parameter(negative="", help="With --bundle, train every readout again on features here and compare scores."),
    ] = False
    features: Annotated[
        tuple[Path, ...],
        Parameter(negative="", help="With --repeat-readout, files of `repro features export` to train on; one each."),
    ] = ()
    device: DeviceOption = None


BUNDLE = BundleOptions()
