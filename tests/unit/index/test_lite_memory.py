"""What Milvus Lite allocates, and where."""

import subprocess
import sys


def test_arrow_allocates_where_memory_is_given_back() -> None:
    script = """
import clipseek_server.app
import pyarrow
print(pyarrow.default_memory_pool().backend_name)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert result.stdout == "system\n"
