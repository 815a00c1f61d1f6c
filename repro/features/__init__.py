"""Features of clips: computed, stored and read.

extract.py      computes what a store is missing, clip by clip
windows.py      cuts decoded frames into windows and samples their noise
computing.py    computes batches of windows, on a GPU one ahead of what is read
gathering.py    gathers their features by clip and stores complete clips
stored_cells.py which cells of which clips a store holds
store.py        the feature store: one file per clip, with its own sha256
audit_store.py  reads all of a store through
packed.py       the same features packed by cell; pack_collection.py packs them
collection.py   clips whose features are stored together
shared.py       features in a file to share; imported.py which imported ones are read
rates.py        measured speeds of extraction, for `repro plan`
spent.py        the time that extractions took, for `repro report`
"""
