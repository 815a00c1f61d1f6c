"""The report of a workspace: one self-contained HTML page, its figures, and a short form in Markdown."""
