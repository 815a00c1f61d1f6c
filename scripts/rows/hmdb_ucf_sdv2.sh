#!/usr/bin/env bash
# HMDB to UCF: SDv2: published 79.5 (top-1 accuracy; best epoch on test),
# release README, results table, column SDv2; there: bash configs/sdv2/hmdbucf.bash
# Cost: 2,849 clips, 6,013 windows, about 20 GB to fetch, 8.7 h on a GPU (assumed: configs/plan.yaml); `repro plan hmdb_ucf_sdv2` says more.
# `repro hmdb_ucf_sdv2` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch sdv2

# The data, in their owners' layout. docs/data.md says what lies where.
repro fetch hmdb51
repro fetch ucf101
repro data prepare hmdb51
repro data prepare ucf101

# Features of every clip the row reads.
repro extract hmdb51/train --backbone sdv2 --timesteps 20 --layers 9
repro extract ucf101/full --backbone sdv2 --timesteps 20 --layers 9

# The readout, one a seed, each with its run record.
repro readout hmdb_ucf_sdv2 --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
