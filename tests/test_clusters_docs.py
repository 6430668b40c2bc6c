"""What ``docs/clusters.md`` shows, run as it stands where one machine can."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT, Run

PAGE = (ROOT / "docs" / "clusters.md").read_text(encoding="utf-8")


def _python(code: list[str], folder: Path) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, *code]
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _command(beginning: str) -> list[str]:
    [line] = re.findall(rf"^({beginning}.*)$", PAGE, re.MULTILINE)
    return shlex.split(line)


def test_the_job_of_slurm(tmp_path: Path) -> None:
    pytest.importorskip("dask_jobqueue")
    [made] = re.findall(r"^cluster = SLURMCluster\(\n.*?^\)\n", PAGE, re.MULTILINE | re.DOTALL)
    code = f"from dask_jobqueue import SLURMCluster\n{made}print(cluster.job_script())"
    script = _python(["-c", code], tmp_path)
    for line in ("#SBATCH --cpus-per-task=8", "#SBATCH -t 02:00:00", "#SBATCH --partition=cpu",
                 "export OMP_NUM_THREADS=1"):  # fmt: skip
        assert line in script.splitlines()
    assert "--nthreads 1" in script
    assert "--nworkers 8" in script


def test_the_options_are_known(run_cli: Run, tmp_path: Path) -> None:
    for beginning, known in (
        ("cnn-codes compare", run_cli("compare", "--help").stdout),
        ("dask worker", _python(["-m", "distributed.cli.dask_worker", "--help"], tmp_path)),
    ):
        options = [word for word in _command(beginning) if word.startswith("--")]
        assert options
        assert all(option in known for option in options)
