"""What tests share: small data sets, checkpoints, servers and records made on the fly."""
