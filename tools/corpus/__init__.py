"""Other projects' test pictures and clips, read by tubelet and by Pillow or PyAV, and compared. See docs/corpora.md."""
