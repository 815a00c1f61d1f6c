"""Stable Video Diffusion as a frozen feature extractor (facts: the release's generate_svd_maps.py and sgm).

names.py        where each tensor lies in the published checkpoint file
modules.py      the diffusers and transformers modules, filled from that file
schedule.py     noise levels
pictures.py     frames to pixels, and to the image tower's input
model.py        one window of frames to features
random_weights.py  a checkpoint in the published layout with weights drawn from a seed
"""
