"""The claims of the published table: whether one row scores above another."""
