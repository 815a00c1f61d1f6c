"""Features on disk: windows.py cuts clips, store.py keeps them, extract.py walks a dataset."""
