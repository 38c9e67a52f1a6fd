"""The text of ``--help``, in the form in which Typer shows it as it was meant."""

import inspect


def help_text(text: str) -> str:
    """A text for ``--help``, from one as docstrings have it.

    Typer keeps line breaks, and takes away the margin of what follows the first paragraph. So paragraphs become one
    line each, which breaks where the terminal ends, and what is indented (examples, lists) keeps lines and margin.
    """
    first, *others = (
        paragraph if paragraph.startswith(" ") else " ".join(paragraph.split())
        for paragraph in inspect.cleandoc(text).split("\n\n")
    )
    # The margin is that of all lines but the first, which is therefore an empty one.
    return "\n\n".join([first, *(["\n" + others[0], *others[1:]] if others else [])])
