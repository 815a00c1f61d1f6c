"""Datasets: which clips they have, with which labels.

registry.py opens a dataset; ucf_hmdb.py, animal_kingdom.py and charades_ego.py read the publishers' files; presence.py finds
missing clips; prepare.py and unpack.py put the publishers' archives into place; audit.py decodes every clip, and manifest.py
stores the results.
"""
