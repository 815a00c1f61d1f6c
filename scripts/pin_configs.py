"""Write expected/rules-N/configs.sha256, the configs that a rule set judges: `python scripts/pin_configs.py [N]`.

`sha256sum -c expected/rules-N/configs.sha256` checks them. A released rule set keeps its pins: changed configs need another.
"""

import sys

from repro.core.config import configs_folder
from repro.core.hashing import file_sha256
from repro.judge.expected import row_configs, table_path
from repro.table.rows import load_row, row_names


def format_pins() -> str:
    """Return the lines of the file."""
    names = sorted({name for row in row_names() for name in row_configs(load_row(row))})
    return "".join(f"{file_sha256(configs_folder().parent / name)}  {name}\n" for name in names)


if __name__ == "__main__":
    path = table_path(*sys.argv[1:2]).with_name("configs.sha256")
    path.write_text(format_pins())
    print(path)
