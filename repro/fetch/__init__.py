"""Download publishers' files, or take them from this machine, and verify them.

catalogue.py     what can be fetched: checkpoints, the text encoder, data sets
bring.py         assets made ready to use: checked before the first byte, fetched, unpacked, audited
file_state.py    what is at a file's path and what should be; FILE.origin.json
fetch_file.py    one file from the Hub, an address, a cache or a path
encoder.py       checkpoints of which only the encoder is kept
hub.py           addresses of files on the Hugging Face Hub
download.py      one download, which the next call resumes; http_client.py sends its requests
"""
