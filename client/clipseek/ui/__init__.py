"""The page of ``clipseek ui``, a client of the server like any other. It needs the extra ``ui``."""
