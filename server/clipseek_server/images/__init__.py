"""The image store: where the pictures' bytes and thumbnails are. It holds no records."""
