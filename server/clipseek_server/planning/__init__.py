"""How much a number of pictures and searches takes: the arithmetic behind ``clipseek-server plan``."""
