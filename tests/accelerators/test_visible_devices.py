"""What was inherited of GPUs is narrowed, never replaced; a driver that hangs or crashes takes nothing along."""

from __future__ import annotations

import dataclasses
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.accelerators import devices, nvml_process, visible_devices
from tasks.accelerators.devices import NO_GPU, Device, Devices
from tasks.jobs.record import State
from tests.conftest import PATIENCE_S, until
from tests.fixtures.stack import Stack
from tests.worker.test_device_assignment import FOR_EVER, Driver, nap, waits

HANGS, CRASHES = 666, 667
MISTUDIO = str(Path(sys.executable).parent / "mistudio")
FOUR = Devices(tuple(Device(index, f"card {index}", f"GPU-{index}{index}aa") for index in range(4)))


@pytest.fixture
def cards(driver: Path, short_tmp: Path) -> Driver:
    return Driver(driver, short_tmp)


#: What CUDA makes of the variable, by its documentation and by `torch.cuda._parse_visible_devices`.
VISIBLE = {
    "": [],
    "-1": [],
    "none": [],
    "1": [1],
    "0,2": [0, 2],
    "3,1": [1, 3],
    " 2 , 3 ": [2, 3],
    "+1": [1],
    "1,-1,2": [1],
    "1,x,2": [1],
    "2gpu,3": [2, 3],
    "0,0": [],
    "1,9,2": [1],
    "9": [],
    "GPU-11aa": [1],
    "GPU-1": [1],
    "GPU-33aa,GPU-00aa": [0, 3],
    "GPU-11aa,2": [1],
    "GPU-11aa,GPU-11aa": [],
    "GPU-": [],
    "GPU-nosuch": [],
    "2,GPU-11aa": [2],
}


@pytest.mark.parametrize("result", VISIBLE)
def test_the_variable_is_read_as_cuda_does(result: str) -> None:
    found = visible_devices.narrow(FOUR, {"CUDA_VISIBLE_DEVICES": result})
    assert [device.index for device in found.devices] == VISIBLE[result]
    assert found.limit == f"{len(VISIBLE[result])} of 4 GPUs, by CUDA_VISIBLE_DEVICES"
    assert found.reason == (None if VISIBLE[result] else NO_GPU)


@pytest.mark.parametrize("result", [result for result in VISIBLE if "GPU-" not in result])
def test_torch_reads_indices_the_same(result: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch.cuda

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", result)
    meant = [index for index in torch.cuda._parse_visible_devices() if isinstance(index, int)]
    there = meant[: next((place for place, index in enumerate(meant) if index > 3), len(meant))]
    assert sorted(there) == VISIBLE[result]


@pytest.mark.parametrize(
    ("result", "indices"),
    [
        ("all", None),
        ("void", None),
        ("none", None),
        ("1", None),
        ("", None),
        ("GPU-11aa", [1]),
        ("GPU-1,GPU-2", [1, 2]),
    ],
)
def test_of_what_is_for_the_container_runtime_only_uuids_hold(result: str, indices: list[int] | None) -> None:
    found = visible_devices.narrow(FOUR, {"NVIDIA_VISIBLE_DEVICES": result})
    assert [device.index for device in found.devices] == (indices or [0, 1, 2, 3])
    both = visible_devices.narrow(FOUR, {"NVIDIA_VISIBLE_DEVICES": result, "CUDA_VISIBLE_DEVICES": "3"})
    assert [device.index for device in both.devices] == [3]


@pytest.mark.parametrize("result", ["1", "GPU-1", "1,0"])
def test_of_a_gpu_in_mig_instances_the_first_is_meant_as_by_cuda(result: str) -> None:
    cut = [Device(1, uuid=f"MIG-{n}", instance=n, gpu_uuid="GPU-1") for n in (0, 3)]
    found = visible_devices.narrow(Devices((Device(0, uuid="GPU-0"), *cut)), {"CUDA_VISIBLE_DEVICES": result})
    assert [device.label for device in found.devices] == (["0", "1:0"] if "," in result else ["1:0"])
    assert found.limit == f"{len(found.devices)} of 2 GPUs, by CUDA_VISIBLE_DEVICES"


def test_what_is_not_limited_or_not_there_stays_as_it_is() -> None:
    assert visible_devices.narrow(FOUR, {}) is FOUR
    broken = Devices(reason="NVML cannot be read: Unknown Error")
    assert visible_devices.narrow(broken, {"CUDA_VISIBLE_DEVICES": "1"}) is broken


def test_cards_without_uuids_are_not_taken_for_none_where_they_are_named_by_them() -> None:
    found = visible_devices.narrow(Devices((Device(0),)), {"CUDA_VISIBLE_DEVICES": "GPU-11aa"})
    assert found.reason == "NVML cannot be read: no UUIDs, and CUDA_VISIBLE_DEVICES names GPUs by them"
    assert found.reason not in devices.ABSENT, "so its jobs wait, and do not run on the CPU"


@pytest.mark.parametrize(
    ("result", "given"), [("1", "GPU-fake-1"), ("GPU-fake-1", "GPU-fake-1"), ("MIG-a/1/0,MIG-b", "MIG-a/1/0")]
)
def test_a_runner_gets_a_card_of_those_its_worker_was_given(
    stack: Stack, cards: Driver, result: str, given: str
) -> None:
    cards.says(GPUS=2, USED_GIB_0=0, USED_GIB_1=9)
    stack.start_worker(**cards.environment, CUDA_VISIBLE_DEVICES=result)
    runner = stack.under_way(nap(stack, "narrow"))
    assert runner.environ()["CUDA_VISIBLE_DEVICES"] == given


@pytest.mark.parametrize("result", ["", "-1"])
def test_a_worker_that_was_given_no_card_computes_on_the_cpu(stack: Stack, cards: Driver, result: str) -> None:
    cards.says(GPUS=2)
    stack.start_worker(**cards.environment, CUDA_VISIBLE_DEVICES=result, NVIDIA_VISIBLE_DEVICES="all", TMPDIR="/tmp")
    runner = stack.under_way(nap(stack, "on-the-cpu"))
    environment = runner.environ()
    assert (environment["CUDA_VISIBLE_DEVICES"], environment["NVIDIA_VISIBLE_DEVICES"]) == ("", "all")


def test_a_request_for_a_card_out_of_bounds_fails_and_says_what_limits(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=2)
    stack.start_worker(**cards.environment, CUDA_VISIBLE_DEVICES="1")
    job = stack.ledger.submit(dataclasses.replace(stack.submit("nap", ticks=1), id="options", gpu="0", artifact=None))
    assert "has no GPU 0: its GPUs are 1 (1 of 2 GPUs, by CUDA_VISIBLE_DEVICES)." in stack.ended(job).reason


# -- drivers that do not behave ---------------------------------------------------------------------------------------


def test_a_job_waits_for_a_driver_that_hangs_can_be_cancelled_and_runs_when_it_answers(
    stack: Stack, cards: Driver
) -> None:
    cards.says(GPUS=1, PowerUsage=HANGS)
    stack.start_worker("--queues", "training", **cards.environment)
    first, second = nap(stack, "first"), nap(stack, "second", 1)
    for job in (first, second):
        waits(stack, job, "the GPUs cannot be read: NVML does not answer")
    stack.ledger.request_cancel(first.id)
    assert stack.ended(first).reason == "cancelled by the user; while it waited for a device", "though it still hangs"
    cards.says(GPUS=1)
    assert (stack.ended(second).state, stack.ended(second).device) == (State.SUCCEEDED, "cuda:0")


def test_a_driver_that_crashes_ends_no_slot(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1, Init=CRASHES)
    stack.start_worker(**cards.environment)
    job = nap(stack, "survives", 1)
    waits(stack, job, "the GPUs cannot be read: the driver ended the process that asked it")
    cards.says(GPUS=1)
    assert (stack.ended(job).state, stack.ended(job).attempt) == (State.SUCCEEDED, 1)


def test_a_slot_lets_go_of_what_asked_the_driver_once_its_job_begins(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1)
    worker = stack.start_worker(**cards.environment)
    stack.under_way(nap(stack, "holds"))
    below = {process.pid for process in psutil.Process(worker.pid).children(recursive=True)}
    there = [p.info["cmdline"] or () for p in psutil.process_iter(["cmdline"]) if p.pid in below]
    assert not [words for words in there if "tasks.accelerators.nvml" in words]


@pytest.mark.parametrize("words", [("doctor",), ("top", "--once")])
def test_commands_answer_although_the_driver_hangs(stack: Stack, cards: Driver, words: tuple[str, ...]) -> None:
    cards.says(GPUS=1, Init=HANGS)
    done = subprocess.run(
        [MISTUDIO, *words],
        env=stack.environment(**cards.environment),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,  # the driver hangs for longer
    )
    assert "NVML does not answer" in done.stdout + done.stderr
    home = str(stack.folder / "home")  # other tests have supervisors beside which such a process lives

    def asking() -> list[dict[str, object]]:
        there = [p.info for p in psutil.process_iter(["cmdline", "environ"])]
        ours = [info for info in there if (info["environ"] or {}).get("MISTUDIO_HOME") == home]
        return [info for info in ours if "tasks.accelerators.nvml" in (info["cmdline"] or ())]

    until(lambda: not asking(), "what asked the driver to be gone")


def test_ctrl_c_ends_a_command_that_waits_for_the_driver(stack: Stack, cards: Driver) -> None:
    cards.says(GPUS=1, Init=HANGS)
    result, quiet = stack.environment(**cards.environment), subprocess.DEVNULL

    def ended_by_ctrl_c() -> bool:
        """Whether it was in time: the command waits for the driver so long, and ends by itself then."""
        command = subprocess.Popen([MISTUDIO, "doctor"], env=result, stdout=quiet, stderr=quiet)
        asks = psutil.Process(command.pid)
        until(lambda: command.poll() is not None or asks.children(), "it to ask the driver")
        asked_at = [child.create_time() for child in asks.children()] if command.poll() is None else []
        command.send_signal(signal.SIGINT)
        was_late = not asked_at or time.time() - min(asked_at) > devices.PATIENCE_S - 1
        command.wait(PATIENCE_S)
        assert was_late or command.returncode == 130
        return command.returncode == 130

    until(ended_by_ctrl_c, "Ctrl-C in time")


def test_an_answer_that_came_late_is_the_next_ones(cards: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in cards.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(nvml_process, "_has_driver", lambda: True)
    cards.says(GPUS=3, Init=HANGS)
    reader = nvml_process._Reader()
    assert reader.read(0.2).reason == "NVML cannot be read: NVML does not answer"
    cards.says(GPUS=3)
    until(lambda: len(reader.read(0.2).devices) == 3)
    reader.close()


def test_the_places_of_a_user_reach_the_runner_untouched(stack: Stack) -> None:
    own = {"HF_HOME": str(stack.folder / "hf"), "TMPDIR": str(stack.folder), "OMP_NUM_THREADS": "1"}
    stack.start_worker(**own)
    environment = stack.under_way(nap(stack, "untouched", FOR_EVER)).environ()
    assert {name: environment[name] for name in own} == own
