"""The clipseek server: embeds pictures and sentences, stores them, and finds the nearest ones."""
