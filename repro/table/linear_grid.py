"""configs/lineargrid.yaml: the recipe of the release's linear grids."""

from functools import cache
from typing import Literal

from repro.core.config import Config, configs_folder, load_config
from repro.core.errors import UsageError
from repro.readout.recipe import Positive, Recipe
from repro.table.row import Row


class LinearGrid(Config):
    """What a linear grid changes in a row's recipe."""

    head: Literal["linear"]
    layers: Literal[0]
    epochs: Positive
    learning_rate: float
    weight_decay: float
    mixup: float
    note: str
    max_length: dict[str, Positive]
    """By the data set that is trained on."""


@cache
def load_linear_grid() -> LinearGrid:
    """Read configs/lineargrid.yaml.

    Raises:
        UsageError: it is not valid.
    """
    return load_config(LinearGrid, configs_folder() / "lineargrid.yaml")


def with_head(row: Row, head: Literal["transformer", "linear"]) -> Row:
    """`row` with the recipe of another head; itself if it has that head already.

    Raises:
        UsageError: there is no recipe of that head for the row.
    """
    if head == row.readout.head:
        return row
    if head == "transformer":
        raise UsageError(f"--head transformer: {row.name} has a linear readout, and no recipe of a transformer")
    grid, dataset = load_linear_grid(), row.data.train.dataset
    # The linear head has a weight for each token of a clip's maximal length, so that a length is part of its
    # recipe.
    if dataset not in grid.max_length:
        raise UsageError(
            f"--head linear: the release has linear grids of {', '.join(grid.max_length)}, none of {dataset}: leave --head out"
        )
    # The grid's keys are names of the recipe's, so that its values replace the row's; the loss, batch and seed stay.
    changes = grid.model_dump() | {"max_length": grid.max_length[dataset]}
    return row.model_copy(update={"readout": Recipe.model_validate(row.readout.model_dump() | changes)})
