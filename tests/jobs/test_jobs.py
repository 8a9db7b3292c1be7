"""Job files: bash that does what SLURM and people expect, run by stand-ins for sbatch, srun, ray and torchrun."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from running import ROOT, pretraining

from fra import cli
from fra.jobs.write import COMMANDS, Machines, System, job_text, without_ours

WORDS = {
    "pretrain": "pretrain paper/resnet50.fra_vggface2_50ep --faces crops --out runs/fra",
    "transfer": "transfer paper/rafdb.finetune --encoder runs/fra --data rafdb --out runs/rafdb",
    "crop": "crop photos --out crops --shards",
    "embed": "embed photos --out features",
    "reproduce": "reproduce all --scale paper --faces crops --data datasets --out reproduced",
}
SHAPES = {"one GPU": (1, 1), "one machine": (1, 4), "many machines": (2, 4)}

PYTHON = sys.executable
SBATCH = """#!PYTHON
import os, re, signal, subprocess, sys, time
from pathlib import Path
state = Path(__file__).parent
job = sys.argv[-1]
given = {}
for line in open(job):
    if match := re.match(r"#SBATCH --([a-z-]+)(?:=(.*))?$", line):
        given[match[1]] = match[2]
    elif line.strip() and not line.startswith("#"):
        break
for word in sys.argv[1:-1]:
    key, _, value = word.removeprefix("--").partition("=")
    given[key] = value
tasks = range(int(given["array"].partition("-")[2]) + 1) if "array" in given else [None]
status = 0
for task in tasks:
    number = str(4000 + (task or 0))
    known = dict(
        SLURM_JOB_ID=number, SLURM_NNODES=given["nodes"], SLURM_NTASKS_PER_NODE=given["ntasks-per-node"],
        SLURM_CPUS_PER_TASK=given["cpus-per-task"], SLURM_JOB_NODELIST="n[1-2]", SLURM_JOB_NAME=given["job-name"],
    )
    if task is not None:
        known |= dict(SLURM_ARRAY_TASK_ID=str(task))
    for count in range(9):
        (state / "requeue").unlink(missing_ok=True)
        (state / "steps").write_text("")
        restarts = {"SLURM_RESTART_COUNT": str(count)} if count else {}
        batch = subprocess.Popen(["bash", job], env=os.environ | known | restarts)
        while batch.poll() is None:
            if (state / "time_is_up").exists():
                (state / "time_is_up").unlink()
                to_script = given["signal"].startswith("B:")
                for pid in [batch.pid] if to_script else (state / "steps").read_text().split():
                    os.kill(int(pid), signal.SIGUSR1)
            time.sleep(0.02)
        status = batch.returncode
        if not (state / "requeue").exists():
            break
sys.exit(status)
"""
SRUN = """#!PYTHON
import os, subprocess, sys
from pathlib import Path
nodes, each = int(os.environ["SLURM_NNODES"]), int(os.environ["SLURM_NTASKS_PER_NODE"])
steps = [
    subprocess.Popen(sys.argv[1:], env=os.environ | dict(
        SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank % each), SLURM_NODEID=str(rank // each),
        SLURM_NTASKS=str(nodes * each), SLURM_NODELIST="127.0.0.1"))
    for rank in range(nodes * each)
]
(Path(__file__).parent / "steps").write_text(" ".join(str(step.pid) for step in steps))
sys.exit(max(step.wait() if step.returncode is None else step.returncode for step in steps))
"""
SCONTROL = """#!/bin/bash
if [ "$1" = requeue ]; then echo "$2" > "$(dirname "$0")/requeue"; else echo 127.0.0.1; fi
"""
RECORDS = """#!/bin/bash
where="node=${SLURM_NODEID:-} task=${SLURM_ARRAY_TASK_ID:-} gpu=${CUDA_VISIBLE_DEVICES:-}"
echo "$(basename "$0") $* [$where]" >> "$(dirname "$0")/done"
if [ "$(basename "$0")" = ray ] && [[ "$*" == *--block* ]]; then exec sleep 60; fi
exit "${STATUS:-0}"
"""


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of stand-ins, which job files find before all others; `done` in it says what was called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    scripts = dict(sbatch=SBATCH, srun=SRUN, scontrol=SCONTROL, fra=RECORDS, ray=RECORDS, torchrun=RECORDS)
    for name, text in scripts.items():
        (folder / name).write_text(text.replace("#!PYTHON", f"#!{PYTHON}"))
        (folder / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr("fra.jobs.write.sys.executable", str(folder / "python"))
    return folder


def job(*words: str) -> Path:
    """The file that `fra cluster` has written."""
    assert cli.main(["cluster", words[0], "--job", "job.sh", "--quiet", *words[1:]]) == 0
    return Path("job.sh").resolve()


def done(programs: Path) -> list[str]:
    return (programs / "done").read_text().splitlines()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", ["slurm", "torchrun"])
def test_every_job_file_is_valid_and_commented(kind: System, shape: str, tmp_path: Path) -> None:
    nodes, gpus = SHAPES[shape]
    file = tmp_path / "job.sh"
    for command in COMMANDS:
        text = job_text(kind, WORDS[command].split(), Machines(nodes=nodes, gpus=gpus), file="job.sh")
        file.write_text(text)
        subprocess.run(["bash", "-n", str(file)], check=True)
        if shutil.which("shellcheck"):
            subprocess.run(["shellcheck", "--severity=error", str(file)], check=True)
        assert f"# fra {WORDS[command]}\n" in text
        assert "\n\n\n" not in text
        assert text.count("\n#") > 4
        assert max(len(line) for line in text.splitlines() if line.startswith("#")) <= 130


def test_it_can_be_printed_instead(programs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    written = job("slurm", *WORDS["crop"].split())
    assert cli.main(["cluster", "slurm", "--print", "--job", "job.sh", *WORDS["crop"].split()]) == 0
    assert capsys.readouterr().out == written.read_text()


def test_a_training_on_slurm_has_a_process_for_each_gpu_of_all_machines(programs: Path) -> None:
    """The flags of the command, which are written for one start, become those of the job."""
    written = job("slurm", *WORDS["pretrain"].split(), "--devices", "4", "--nodes=2", "--resume", "--set", "seed=3")
    assert subprocess.run(["sbatch", str(written)]).returncode == 0
    line = "fra pretrain paper/resnet50.fra_vggface2_50ep --faces crops --out runs/fra --set seed=3 --devices 4 --nodes"
    assert sorted(done(programs)) == sorted(f"{line} 2 --resume [node={node} task= gpu=]" for node in [0] * 4 + [1] * 4)
    (programs / "done").unlink()
    subprocess.run(["sbatch", "--nodes=1", str(written)], check=True)
    assert done(programs) == [f"{line} 1 --resume [node=0 task= gpu=]"] * 4


@pytest.mark.parametrize("status, starts", [(0, 1), (2, 1), (138, 9), (143, 1), (1, 4), (137, 4)])
def test_what_is_requeued(status: int, starts: int, programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the time was up: always (the stand-in gives up after nine); lost: three times; else never."""
    monkeypatch.setenv("STATUS", str(status))
    written = job("slurm", *WORDS["transfer"].split())
    assert subprocess.run(["sbatch", str(written)]).returncode == status
    assert len(done(programs)) == starts


def test_reproduce_on_slurm_is_an_array(programs: Path) -> None:
    written = job("slurm", "--nodes", "2", "--gpus", "2", *WORDS["reproduce"].split())
    subprocess.run(["sbatch", str(written)], check=True)
    assert done(programs) == [f"fra {WORDS['reproduce']} --no-wait [node=0 task={task} gpu=]" for task in range(4)]


def test_cropping_on_one_machine_uses_its_cores(programs: Path) -> None:
    written = job("slurm", "--cpus", "32", *WORDS["crop"].split())
    subprocess.run(["sbatch", str(written)], check=True)
    assert done(programs) == [f"fra {WORDS['crop']} --workers 32 --resume [node= task= gpu=]"]


def test_cropping_on_many_machines_brings_its_ray_cluster(programs: Path) -> None:
    for tool in ("sleep", "seq"):
        (programs / tool).write_text("#!/bin/bash\nexit 0\n")
        (programs / tool).chmod(0o755)
    written = job("slurm", "--nodes", "2", *WORDS["crop"].split())
    subprocess.run(["sbatch", str(written)], check=True)
    head, other, work = sorted(done(programs), key=lambda line: ("ray" not in line, "--address" in line))
    assert head == "ray start --head --port=24000 --num-cpus=16 --disable-usage-stats --block [node=0 task= gpu=]"
    assert other.startswith("ray start --address=127.0.0.1:24000 --num-cpus=16")
    assert work == f"fra {WORDS['crop']} --cluster 127.0.0.1:24000 --resume [node= task= gpu=]"


def test_machines_without_a_batch_system(programs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = job("torchrun", "--nodes", "2", "--gpus", "4", *WORDS["pretrain"].split())
    refused = subprocess.run(["bash", str(written)], capture_output=True, text=True)
    assert refused.returncode != 0
    assert "NODE_RANK" in refused.stderr
    where = {"NODE_RANK": "1", "MASTER_ADDR": "10.0.0.1"}
    subprocess.run(["bash", str(written)], env=os.environ | where, check=True)
    subprocess.run(["bash", str(written)], env=os.environ | {"NODES": "1"}, check=True)
    both, alone = done(programs)
    begin = "--master-port=29500 -m fra.cli " + WORDS["pretrain"]
    for line, nodes, rank, address in ((both, 2, 1, "10.0.0.1"), (alone, 1, 0, "127.0.0.1")):
        assert line == (
            f"torchrun --nnodes={nodes} --nproc-per-node=4 --node-rank={rank} --master-addr={address} {begin} "
            f"--devices 4 --nodes {nodes} --resume [node= task= gpu=]"
        )


def test_reproduce_by_hand_has_a_process_for_each_gpu(programs: Path) -> None:
    subprocess.run(["bash", str(job("torchrun", "--gpus", "3", *WORDS["reproduce"].split()))], check=True)
    assert sorted(done(programs)) == [f"fra {WORDS['reproduce']} --no-wait [node= task= gpu={gpu}]" for gpu in range(3)]


def test_a_recipe_alone_says_which_command_it_is_for(programs: Path) -> None:
    file = job("slurm", "paper/rafdb.finetune", *WORDS["transfer"].split()[2:])
    assert f"srun fra {WORDS['transfer']} " in file.read_text()


@pytest.mark.parametrize(
    "words, told",
    [
        ("slurm pretran x", "'pretran' cannot be a job; did you mean 'pretrain'"),
        ("slurm regions laptop --faces x", "'regions' cannot be a job: give pretrain, transfer, crop, embed or"),
        ("slurm crop photos", "--out is missing"),
        ("slurm pretrain laptop/resnet10_half.fra --out x", "--faces is missing"),
        ("slurm crop photos --out x --shard", "unrecognized arguments: --shard; did you mean '--shards'"),
        ("slurm --nodes 3 " + WORDS["pretrain"], "batch_size 1024 cannot be divided among 3 processes"),
        ("slurm " + WORDS["pretrain"] + " --set batch_sise=3", "did you mean 'batch_size'"),
        ("slurm " + WORDS["pretrain"] + " --plan", "leave out --plan"),
        ("torchrun --time 1:00 crop photos --out x", "unrecognized arguments: --time"),
    ],
)
def test_what_cannot_work_is_told_before_the_job_waits(
    words: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["cluster", *words.split()]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten_and_the_next_line_is_printed(
    programs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["cluster", "slurm", *WORDS["crop"].split()]
    for name in ("fra-crop.sh", "fra-crop-2.sh"):
        assert cli.main(words) == 0
        assert capsys.readouterr().out == f"wrote {name}; start it with: sbatch {name}\n"
    assert cli.main([*words[:2], "--job", "fra-crop.sh", *words[2:]]) == 2
    assert "fra-crop.sh exists" in capsys.readouterr().err


def test_flags_of_the_job_are_taken_out_of_the_command() -> None:
    words = ["--devices", "8", "--out", "--resume", "x", "--nodes=2", "--cluster=auto", "--no-wait", "--seed", "1"]
    assert without_ours(words) == ["--out", "x", "--seed", "1"]


@pytest.mark.slow
def test_a_job_whose_time_is_up_is_requeued_and_ends_as_if_it_had_not_been(
    programs: Path, tmp_path: Path, drawn_faces: Path
) -> None:
    """Two machines, one process each, gloo: SLURM's signal, status 138, a second start that resumes."""
    (programs / "fra").write_text(
        f'#!/bin/bash\nexport PYTHONPATH={ROOT}\nexec {PYTHON} -m fra.cli "$@" 2>> {tmp_path}/said\n'
    )
    words = [str(word) for word in pretraining(drawn_faces, tmp_path / "run", "--workers", "0", epochs=10)]
    started = subprocess.Popen(["sbatch", str(job("slurm", "--nodes", "2", "--gpus", "0", *words))])
    table = tmp_path / "run" / "log.csv"
    deadline = time.monotonic() + 90
    while not table.exists() or len(table.read_text().splitlines()) < 2:
        assert time.monotonic() < deadline
        assert started.poll() is None
        time.sleep(0.05)
    (programs / "time_is_up").write_text("")
    assert started.wait(180) == 0
    said = (tmp_path / "said").read_text()
    assert said.count("continue with --resume") == 1, said
    assert torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)["step"] == 30
    assert (programs / "requeue").exists() is False
