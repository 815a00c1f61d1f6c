"""Features that workspaces share: to a file and from one, and samples extracted again."""
