"""What a backbone makes of one clip, as a page."""

import logging

# As for grids: matplotlib warns on import if its cache folder cannot be written, and the page does not depend on it.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
