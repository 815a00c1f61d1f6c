"""Which clips, with which labels.

registry.py opens a data set; ucf_hmdb.py, animal_kingdom.py and charades_ego.py read the owners' files; presence.py says
which clips are not there; prepare.py and archives.py bring the owners' archives into place; audit.py decodes every clip
and manifest.py keeps what it found.
"""
