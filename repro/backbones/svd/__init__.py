"""Stable Video Diffusion as a frozen feature extractor (source: the release's generate_svd_maps.py and sgm).

family.py           the family: how its backbones are opened, verified and given random weights
config.py           what a config contains, sizes of the networks, and the numbering of the UNet's layers
checkpoint.py       the published file: opening it, where each tensor is in it, random weights in its layout
networks.py         the interface to the networks
with_diffusers.py, with_sgm.py  the two implementations
implementations.py  choosing and loading one of them
text_files.py, text.py  texts in place of the conditioning image: the files they need, and their embeddings
pictures.py         frames to pixels, and to the image tower's input
vae.py              the VAE encoders, rewritten for precision fast and to be compiled
model.py            one window of frames to features, without unnecessary work
extractor.py        the same for a clip's windows, for one backbone or two that share a checkpoint
plain.py            one window exactly as the release computes it
verify.py           comparisons with golden values, and of ways of computing with each other
"""
