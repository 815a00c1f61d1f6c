"""Stable Video Diffusion as a frozen feature extractor (facts: the release's generate_svd_maps.py and sgm).

names.py        where each tensor lies in the published checkpoint file
checkpoint.py   that file opened, every tensor accounted for
networks.py     what is asked of the networks, and which implementation computes
with_diffusers.py, with_sgm.py  the two implementations
schedule.py     noise levels
pictures.py     frames to pixels, and to the image tower's input
model.py        one window of frames to features, no work thrown away
extractor.py    the same for a clip's windows, for one backbone or two that share a checkpoint
plain.py        one window as the release computes it, nothing left out
compare.py      ways of computing held against each other
random_weights.py  a checkpoint in the published layout with weights drawn from a seed
"""
