"""Features of clips: computed, stored and read.

extract.py      computes what a store is missing, clip by clip
feeding.py      decoded frames to windows with their noise, windows.py cuts them
store.py        the feature store: one file per clip, with its own sha256
packed.py       the same features packed by cell; pack_collection.py packs them
collection.py   clips whose features are stored together
rates.py        measured speeds of extraction, for `repro plan`
"""
