#!/usr/bin/env bash
# Animal Kingdom, unseen species: VideoMAEv2: published 37.25 (top-1 accuracy; best epoch on test),
# release README, results table, column VideoMAEv2; there: bash configs/videoMAE/animalkingdom_unseen.bash
# Cost: 5,749 clips, ~16,000 windows, about 20 GB to fetch, 45 min on a GPU (assumed: configs/plan.yaml); `repro plan ak_unseen_videomaev2` says more.
# `repro ak_unseen_videomaev2` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch videomaev2

# The data, in their owners' layout. Their owners give them on request: `repro fetch animal_kingdom` says how.
repro data prepare animal_kingdom

# Features of every clip the row reads.
repro extract animal_kingdom/unseen_species_train --backbone videomaev2
repro extract animal_kingdom/unseen_species_test --backbone videomaev2

# The readout, one a seed, each with its run record.
repro readout ak_unseen_videomaev2 --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
