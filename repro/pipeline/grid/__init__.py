"""A readout at every timestep and layer."""

import logging

# matplotlib warns on import if its cache folder cannot be written, as in a container with a read-only home; the report does
# not depend on that folder. This must run before figure.py imports matplotlib.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
