"""The command line, over the synchronous client; needs the extra ``cli``."""
