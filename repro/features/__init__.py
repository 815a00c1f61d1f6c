"""Features of clips: computed, stored and read.

extract.py      computes what a store is missing, clip by clip
windows.py      cuts decoded frames into windows and samples their noise
store.py        the feature store: one file per clip, with its own sha256
packed.py       the same features packed by cell; pack_collection.py packs them
collection.py   clips whose features are stored together
rates.py        measured speeds of extraction, for `repro plan`
"""
