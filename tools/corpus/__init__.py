"""Other projects' test media, read by tubelet, Pillow and PyAV, and compared. See docs/record/corpora.md."""
