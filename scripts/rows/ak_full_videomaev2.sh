#!/usr/bin/env bash
# Animal Kingdom, full dataset: VideoMAEv2: published 63.90 (micro-averaged mAP; best epoch on test),
# release README, results table, column VideoMAEv2; there: bash configs/videoMAE/animalkingdom.bash
# Cost: 30,100 clips, ~83,800 windows, about 20 GB to fetch, 3.9 h on a GPU (assumed: configs/plan.yaml); `repro plan ak_full_videomaev2` says more.
# `repro ak_full_videomaev2` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch videomaev2

# The data, in their owners' layout. Their owners give them on request: `repro fetch animal_kingdom` says how.
repro data prepare animal_kingdom

# Features of every clip the row reads.
repro extract animal_kingdom/full_train --backbone videomaev2
repro extract animal_kingdom/full_test --backbone videomaev2

# The readout, one a seed, each with its run record.
repro readout ak_full_videomaev2 --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
