"""What a gate computes on: chosen by its file, shown before it starts, and part of what its noise rests on."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from fedhealth.errors import ConfigInvalid
from fedhealth.link.frames import ReleaseReply
from fedhealth.site import confinement, preflight
from fedhealth.site.landlock import Right, Rule
from fedhealth.training import device

SITE = """
id = "ward-a"
title = "Ward A"
device = "{device}"

[data_set]
name = "ward"
file = "patients.csv"
patient_column = "id"
declared_patients = 30
"""


@pytest.fixture
def without_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def test_the_processor_is_taken_where_there_is_no_gpu(without_a_gpu):
    assert device.choose_device("auto") == device.choose_device("cpu") == "cpu"
    assert device.computing_device() == torch.device("cpu")


def test_a_gpu_that_is_asked_for_and_not_there_is_an_error(without_a_gpu):
    with pytest.raises(ConfigInvalid, match="no GPU that can be used"):
        device.choose_device("cuda")


def test_a_gpu_is_taken_with_kernels_that_give_the_same_bits(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "H100")
    monkeypatch.setattr(device, "_chosen", list(device._chosen))
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    for settings, name in ((torch.backends.cudnn, "benchmark"), (torch.backends.cudnn, "allow_tf32")):
        monkeypatch.setattr(settings, name, True)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    assert device.choose_device("auto") == "cuda H100" == device.device_name()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark
    assert not torch.backends.cudnn.allow_tf32
    assert device.os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert device.choose_device("cpu") == "cpu"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gate_that_shall_use_a_gpu_does_not_start_without(tmp_path):
    (tmp_path / "site.toml").write_text(SITE.format(device="cuda"))
    (tmp_path / "s" / "gate").mkdir(parents=True)
    command = [
        sys.executable,
        "-m",
        "fedhealth.cli.main",
        "site",
        "gate",
        str(tmp_path),
        "--state",
        str(tmp_path / "s"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ConfigInvalid.exit_code
    assert "no GPU that can be used" in done.stderr and "Traceback" not in done.stderr


# The same question, records and secrets; what computes is another, and so would be the last bits of a sum.
def test_another_device_has_another_noise(hospital):
    payloads = []
    for place, name in enumerate(("cpu", "cpu", "cuda NVIDIA H100")):
        site = hospital(f"at-{place}")
        site.gate.renew(replace(site.gate.inputs, device=name))
        site.gate.prepare(site.signed)
        site.acknowledge()
        reply, payload, _ = site.ask()
        assert isinstance(reply, ReleaseReply)
        payloads.append(bytes(payload))
    assert payloads[0] == payloads[1] != payloads[2]


@pytest.mark.parametrize(
    ("asked", "cards", "torch_says", "verdict", "words"),
    [
        ("auto", 0, "", "ok", "none; the gate computes on the processor"),
        ("cpu", 1, "cuda H100", "ok", "not used"),
        ("cuda", 0, "", "wrong", 'device = "cuda"'),
        ("auto", 1, "cuda H100", "ok", "H100: the gate computes networks of images on it"),
        ("auto", 1, "cpu", "warning", "torch cannot use one"),
        ("cuda", 1, "cpu", "wrong", "torch cannot use one"),
        ("cuda", 2, "cuda H100", "ok", "H100"),
    ],
)
def test_what_it_will_compute_on_is_shown_before_it_starts(
    tmp_path, monkeypatch, asked, cards, torch_says, verdict, words
):
    (tmp_path / "site.toml").write_text(SITE.format(device=asked))
    for number in range(cards):
        (tmp_path / f"nvidia{number}").touch()
    monkeypatch.setattr(preflight, "_DEVICES", tmp_path)
    monkeypatch.setattr(preflight, "_device_of_torch", lambda: torch_says)
    found = preflight._gpu(tmp_path)
    assert (found.verdict, words in found.found) == (verdict, True), found
    assert bool(found.remedy) == (verdict != "ok")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_process_of_its_own_says_what_torch_would_take():
    assert preflight._device_of_torch() == "cpu"


def test_a_confined_gate_may_use_the_gpu_s_files_and_no_node_may(tmp_path, monkeypatch):
    # A device that every machine has stands for the GPU's files.
    asked = []
    monkeypatch.setattr(confinement, "_GPU", "nul[l]")
    monkeypatch.setattr(confinement, "_keep_memory_private", lambda: None)
    monkeypatch.setattr(confinement, "enter_sandbox", lambda rules, *_: asked.append(rules))
    monkeypatch.setenv("SQLITE_TMPDIR", "")
    monkeypatch.setenv("TMPDIR", "")
    confinement.confine_gate(tmp_path, tmp_path)
    confinement.confine_node(tmp_path, 443)
    use = Rule(Path("/dev/null"), Right.READ_FILE | Right.WRITE_FILE | Right.CONTROL_DEVICE)
    assert [use in rules for rules in asked] == [True, False]
