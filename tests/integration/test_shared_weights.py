"""The processes of a machine share the pretrained weights' memory."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from sweeps import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says what of a mapping was copied")
def test_ranks_read_the_frozen_weights_where_the_file_is_mapped(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    script = ROOT / "tests" / "support" / "shared_weights.py"
    files = [tmp_path / f"{rank}.json" for rank in range(2)]
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(port), str(file)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
        )
        for rank, file in enumerate(files)
    ]
    assert [rank.wait(400) for rank in ranks] == [0, 0]
    for file in files:
        mapped = json.loads(file.read_text())
        assert mapped["Rss"] > 100
        assert mapped["Private_Dirty"] == 0
