"""Files, configs, hashes and messages: what every package uses. Knows nothing of video or models."""
