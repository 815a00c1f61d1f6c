#!/usr/bin/env bash
# Animal Kingdom, full dataset: V-JEPA: published 78.64 (micro-averaged mAP; best epoch on test),
# release README, results table, column V-JEPA; there: bash configs/vjepa/animalkingdom.bash
# Cost: 30,100 clips, ~83,800 windows, about 26 GB to fetch, 1.8 h on a GPU (assumed: configs/plan.yaml); `repro plan ak_full_vjepa` says more.
# `repro ak_full_vjepa` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch vjepa

# The data, in their owners' layout. Their owners give them on request: `repro fetch animal_kingdom` says how.
repro data prepare animal_kingdom

# Features of every clip the row reads.
repro extract animal_kingdom/full_train --backbone vjepa
repro extract animal_kingdom/full_test --backbone vjepa

# The readout, one a seed, each with its run record.
repro readout ak_full_vjepa --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
