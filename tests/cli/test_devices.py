"""The device table is true field by field: on a fake driver that pynvml really loads, and on the files of a Jetson."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.accelerators.devices import NO_DRIVER, read_devices

GIB = 1 << 30
NOT_SUPPORTED, NO_PERMISSION, DRIVER_NOT_LOADED, GPU_IS_LOST, UNKNOWN = "3", "4", "9", "15", "999"
#: What is no field of a whole GPU, or of one without a fault.
ABSENT = {"problem", "instance", "gpu_uuid"}

ASK = """
import dataclasses, json, pathlib, sys
from tasks.accelerators.devices import read_devices
read_devices()
print(json.dumps(dataclasses.asdict(read_devices(*map(pathlib.Path, sys.argv[1:])))))
"""


def output_of(command: list[str], folder: Path, **result: str) -> dict:
    environment = {**os.environ, "LD_LIBRARY_PATH": str(folder), **{f"FAKE_{k}": v for k, v in result.items()}}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def ask(folder: Path, *places: Path, **result: str) -> dict:
    return output_of([sys.executable, "-P", "-c", ASK, *map(str, places)], folder, **result)


def test_every_field_of_every_gpu_is_read(driver: Path) -> None:
    result = ask(driver, PID="4242")
    assert result["reason"] is None
    assert [device["name"] for device in result["devices"]] == ["Fake GPU 0", "Fake GPU 1"]
    assert result["devices"][1] == {
        "index": 1,
        "name": "Fake GPU 1",
        "uuid": "GPU-fake-1",
        "memory_total": 24 * GIB,
        "memory_used": 5 * GIB,
        "utilisation": 43.0,
        "temperature": 61,
        "power": 123.0,
        "processes": [{"pid": 4242, "memory": 3 * GIB}],
        "problem": None,
        "is_lost": False,
        "unified": False,
        "in_instances": False,
        "instance": None,
        "gpu_uuid": None,
        "throttle_reasons": ["SW power cap", "HW thermal slowdown"],
    }


@pytest.mark.parametrize("error", [NOT_SUPPORTED, NO_PERMISSION, UNKNOWN])
@pytest.mark.parametrize(
    ("call", "fields"),
    [
        ("Name", ["name"]),
        ("UUID", ["uuid"]),
        ("MemoryInfo", ["memory_total", "memory_used"]),
        ("UtilizationRates", ["utilisation"]),
        ("Temperature", ["temperature"]),
        ("PowerUsage", ["power"]),
        ("ClocksEventReasons", ["throttle_reasons"]),
    ],
)
def test_a_field_that_cannot_be_read_is_unknown_and_hides_no_other(
    driver: Path, call: str, fields: list[str], error: str
) -> None:
    device = ask(driver, GPUS="1", **{call: error})["devices"][0]
    assert [name for name, value in device.items() if value is None and name not in ABSENT] == fields


def test_an_idle_gpu_is_not_throttled(driver: Path) -> None:
    assert ask(driver, GPUS="1", REASONS="1")["devices"][0]["throttle_reasons"] == []


def test_processes_are_unknown_only_when_neither_list_can_be_read(driver: Path) -> None:
    one = ask(driver, GPUS="1", ComputeRunningProcesses=NOT_SUPPORTED)["devices"][0]
    none = ask(driver, GPUS="1", ComputeRunningProcesses="3", GraphicsRunningProcesses="3")["devices"][0]
    assert (one["processes"], none["processes"]) == ([], None)


def test_wsl2_reports_processes_without_their_memory(driver: Path) -> None:
    assert ask(driver, GPUS="1", NO_PROCESS_MEMORY="1", PID="7")["devices"][0]["processes"] == [
        {"pid": 7, "memory": None}
    ]


@pytest.mark.parametrize("how", ["LOST", "ABSENT"])
def test_a_lost_gpu_loses_only_its_own_row(driver: Path, how: str) -> None:
    result = ask(driver, GPUS="3", **{how: "1"})
    assert [device["problem"] for device in result["devices"]] == [None, "GPU is lost", None]
    assert [device["utilisation"] for device in result["devices"]] == [42.0, None, 44.0]


def test_a_gpu_that_is_cut_into_mig_instances_is_read_as_these(driver: Path) -> None:
    result = ask(driver, GPUS="3", MIG="1", INSTANCES="2", TOTAL_GIB_9="10", USED_GIB_9="1")["devices"]
    places = [(device["index"], device["instance"], device["uuid"], device["gpu_uuid"]) for device in result]
    assert places == [
        (0, None, "GPU-fake-0", None),
        (1, 1, "MIG-fake-1", "GPU-fake-1"),
        (1, 2, "MIG-fake-2", "GPU-fake-1"),
        (2, None, "GPU-fake-2", None),
    ]
    assert (result[1]["memory_total"], result[1]["memory_used"]) == (10 * GIB, GIB)
    assert not any(device["in_instances"] or device["problem"] for device in result)


def test_a_gpu_whose_instances_cannot_be_used_or_read_stays_one(driver: Path, old_driver: Path) -> None:
    none = ask(driver, GPUS="1", MIG="0")["devices"]
    assert [device["problem"] for device in none] == ["MIG is enabled, but it has no instances"]
    for call in ("MaxMigDeviceCount", "MigDeviceHandleByIndex"):
        (hidden,) = ask(driver, GPUS="1", MIG="0", INSTANCES="2", **{call: NO_PERMISSION})["devices"]
        assert (hidden["uuid"], hidden["in_instances"], hidden["problem"]) == ("GPU-fake-0", True, None)
        (lost,) = ask(driver, GPUS="1", MIG="0", INSTANCES="2", **{call: GPU_IS_LOST})["devices"]
        assert (lost["uuid"], lost["problem"], lost["is_lost"]) == ("GPU-fake-0", "GPU is lost", True)
    (old,) = ask(old_driver, GPUS="1", MIG="0")["devices"]
    assert (old["in_instances"], old["problem"]) == (True, None)


@pytest.mark.parametrize(
    "call", ["Name", "UUID", "MemoryInfo", "UtilizationRates", "Temperature", "PowerUsage", "ComputeRunningProcesses"]
)
def test_a_gpu_is_lost_whichever_call_says_so(driver: Path, call: str) -> None:
    device = ask(driver, GPUS="1", **{call: GPU_IS_LOST})["devices"][0]
    assert (device["is_lost"], device["problem"]) == (True, "GPU is lost")
    assert not ask(driver, GPUS="1", **{call: UNKNOWN})["devices"][0]["is_lost"]


def test_a_driver_from_before_version_2_of_its_calls_still_answers(old_driver: Path) -> None:
    device = ask(old_driver, GPUS="1", PID="9")["devices"][0]
    assert device["memory_used"] == 6 * GIB
    assert device["processes"] == [{"pid": 9, "memory": 3 * GIB}]


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        ({"Init": DRIVER_NOT_LOADED}, "no NVIDIA driver"),
        ({"Init": NO_PERMISSION}, "NVML cannot be read: Insufficient Permissions"),
        ({"Count": UNKNOWN}, "NVML cannot be read: Unknown Error"),
        ({"GPUS": "0"}, "no NVIDIA GPU"),
    ],
)
def test_a_driver_that_reports_nothing_is_a_reason(driver: Path, result: dict[str, str], reason: str) -> None:
    assert ask(driver, **result) == {"devices": [], "reason": reason, "limit": None}


def test_without_a_driver_the_reason_says_so(tmp_path: Path) -> None:
    result = ask(tmp_path)
    assert result["reason"] in (NO_DRIVER, None), "a machine with a real driver lists its devices instead"


def test_gpustat_reads_the_same(driver: Path) -> None:
    mine = ask(driver, PID=str(os.getpid()))["devices"]
    theirs = output_of([sys.executable, "-m", "gpustat", "--json"], driver, PID=str(os.getpid()))["gpus"]
    mib = 1 << 20
    assert [(d["index"], d["uuid"], d["name"], d["temperature"], d["utilisation"], d["power"]) for d in mine] == [
        (g["index"], g["uuid"], g["name"], g["temperature.gpu"], g["utilization.gpu"], g["power.draw"]) for g in theirs
    ]
    assert [(d["memory_used"] // mib, d["memory_total"] // mib) for d in mine] == [
        (g["memory.used"], g["memory.total"]) for g in theirs
    ]
    assert [[(p["pid"], p["memory"] // mib) for p in d["processes"]] for d in mine] == [
        [(p["pid"], p["gpu_memory_usage"]) for p in g["processes"]] for g in theirs
    ]


def a_jetson(folder: Path, node: str, of_name: str) -> tuple[Path, Path]:
    device = folder / "sys/class/devfreq" / node / "device"
    (device / "of_node").mkdir(parents=True)
    (device / "of_node" / "name").write_text(of_name + "\0")
    (device / "load").write_text("437\n")
    (folder / "proc/device-tree").mkdir(parents=True)
    (folder / "proc/device-tree/model").write_text("NVIDIA Jetson Orin Nano\0")
    (folder / "proc/meminfo").write_text("MemTotal:  8000000 kB\nMemFree: 1 kB\nMemAvailable:  5000000 kB\n")
    return folder / "proc", folder / "sys"


@pytest.mark.parametrize(("node", "of_name"), [("57000000.gpu", "gpu"), ("17000000.ga10b", "gpu")])
def test_a_jetson_without_nvml_is_read_from_its_files(tmp_path: Path, node: str, of_name: str) -> None:
    if read_devices().devices:
        pytest.skip("this machine has a GPU of its own")
    (device,) = read_devices(*a_jetson(tmp_path, node, of_name)).devices
    assert (device.name, device.utilisation) == ("NVIDIA Jetson Orin Nano", 43.7)
    assert (device.memory_total, device.memory_used) == (8_000_000 * 1024, 3_000_000 * 1024)
    assert device.temperature is None
    assert device.unified


def test_a_jetson_whose_nvml_reports_no_memory_has_the_machine_s(driver: Path, tmp_path: Path) -> None:
    places = a_jetson(tmp_path, "gpu-gpc-0", "gpu")
    thor = {"GPUS": "1", "MemoryInfo": NOT_SUPPORTED, "PowerUsage": NOT_SUPPORTED}
    (device,) = ask(driver, *places, **thor)["devices"]
    assert (device["memory_total"], device["memory_used"]) == (8_000_000 * 1024, 3_000_000 * 1024)
    assert (device["name"], device["utilisation"], device["power"]) == ("Fake GPU 0", 42.0, None)
    assert device["unified"]
    beside = ask(driver, *places, GPUS="1")["devices"][0]
    assert (beside["memory_total"], beside["unified"]) == (24 * GIB, False)


def test_other_devfreq_nodes_are_no_gpu(tmp_path: Path) -> None:
    if read_devices().devices:
        pytest.skip("this machine has a GPU of its own")
    assert read_devices(*a_jetson(tmp_path, "13e00000.host1x", "host1x")).reason == NO_DRIVER
