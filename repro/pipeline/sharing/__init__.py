"""Features that workspaces share: to a file and from one, which imported ones are read, and samples extracted again."""
