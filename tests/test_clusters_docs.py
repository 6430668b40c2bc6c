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
    [line] = re.findall(rf"^ +({beginning}.*)$", PAGE, re.MULTILINE)
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


def test_torchrun_fills_one_store(image_folder: Path, run_cli: Run) -> None:
    image_folder.rename(image_folder.with_name("my-images"))
    folder = image_folder.parent
    words = _command("torchrun")
    assert words[:3] == ["torchrun", "--nproc-per-node", "4"]
    words = ["2" if word == "4" else "bundled" if word == "resnet50" else word for word in words]
    said = _python(["-m", "torch.distributed.run", *words[1:]], folder)
    assert {"Rank 0 of 2", "Rank 1 of 2"} <= set(re.findall(r"Rank \d of \d", said))
    done = run_cli("extract", "my-images", "--backbone", "bundled")
    assert "0 images extracted, 36 found" in done.stdout


def test_the_options_are_known(run_cli: Run, tmp_path: Path) -> None:
    for beginning, known in (
        ("cnn-codes compare", run_cli("compare", "--help").stdout),
        ("dask worker", _python(["-m", "distributed.cli.dask_worker", "--help"], tmp_path)),
    ):
        options = [word for word in _command(beginning) if word.startswith("--")]
        assert options
        assert all(option in known for option in options)
