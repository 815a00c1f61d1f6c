#!/usr/bin/env bash
# Animal Kingdom, full dataset: SDv2: published 78.66 (micro-averaged mAP; best epoch on test),
# release README, results table, column SDv2; there: bash configs/sdv2/animalkingdom.bash
# Cost: 30,100 clips, ~59,000 windows, about 25 GB to fetch, 85 h on a GPU (assumed: configs/plan.yaml); `repro plan ak_full_sdv2` says more.
# `repro ak_full_sdv2` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch sdv2

# The data, in their owners' layout. Their owners give them on request: `repro fetch animal_kingdom` says how.
repro data prepare animal_kingdom

# Features of every clip the row reads.
repro extract animal_kingdom/full_train --backbone sdv2 --timesteps 20 --layers 9
repro extract animal_kingdom/full_test --backbone sdv2 --timesteps 20 --layers 9

# The readout, one a seed, each with its run record.
repro readout ak_full_sdv2 --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
