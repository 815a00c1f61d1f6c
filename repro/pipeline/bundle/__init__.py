"""Evidence of rows as one zip file, to hand to others and to judge without believing who made it.

contents.py bundle.json; archive.py zip files, written the same each time and read with distrust; private.py what of a machine and
its user must not get into one; features_index.py hashes of features; descriptions.py report, CODECHECK and RO-Crate; make.py writes
a bundle; read.py verifies one; spot_check.py extracts random clips again; repeat.py trains its
readouts again.
"""
