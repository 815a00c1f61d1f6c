#!/usr/bin/env bash
# Animal Kingdom, unseen species: V-JEPA: published 51.40 (top-1 accuracy; best epoch on test),
# release README, results table, column V-JEPA; there: bash configs/vjepa/animalkingdom_unseen.bash
# Cost: 5,749 clips, ~16,000 windows, about 26 GB to fetch, 21 min on a GPU (assumed: configs/plan.yaml); `repro plan ak_unseen_vjepa` says more.
# `repro ak_unseen_vjepa` takes what is fetched and prepared to its record; here is the whole way, stage by stage. What is done is kept.
# REPRO_WORKSPACE names the workspace [./workspace], SEEDS how many readouts [1]; 5 are planned for a verdict.
# Made by scripts/row_scripts.py.
set -euo pipefail

# The frozen backbone's weights. Where they are not there yet, this stops, names their licence, and says how to agree to it.
repro fetch vjepa

# The data, in their owners' layout. Their owners give them on request: `repro fetch animal_kingdom` says how.
repro data prepare animal_kingdom

# Features of every clip the row reads.
repro extract animal_kingdom/unseen_species_train --backbone vjepa
repro extract animal_kingdom/unseen_species_test --backbone vjepa

# The readout, one a seed, each with its run record.
repro readout ak_unseen_vjepa --seeds "${SEEDS:-1}"

# All that was measured here, against the published table.
repro check
