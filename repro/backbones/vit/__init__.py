"""Video vision transformers as frozen feature extractors: what V-JEPA and VideoMAEv2 share.

config.py       what a config says, and how clips become sequences
checkpoint.py   an owners' file opened: unwrapped, every tensor accounted for, its sizes read off
pictures.py     frames to pixels
encoder.py      what is asked of an encoder, and its tokens layer by layer
random_weights.py  a checkpoint with weights drawn from a seed
extractor.py    a clip's windows to vectors
families.py     how a family made of these is opened, verified and cut from its owners' file
golden.py, compare.py  held against golden values; ways of computing held against each other
"""
