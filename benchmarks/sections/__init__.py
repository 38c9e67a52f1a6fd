"""One module a section: ``measure(bench)`` returns its part of the results, as JSON values."""
