"""How many processes are started, and where: from the config, from accelerate's config and from its arguments."""

from __future__ import annotations

import house
import pytest

from simpletuner.config import load
from simpletuner.errors import ConfigError
from simpletuner.selection import Selection
from simpletuner.training.crew import Crew, crew, variables
from simpletuner.training.options import Distributed
from simpletuner.training.place import Place

ACCELERATE = """
compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
gpu_ids: 1,3
machine_rank: 1
main_process_ip: 10.0.0.1
main_process_port: 29600
mixed_precision: bf16
num_machines: 2
num_processes: 4
"""


@pytest.fixture
def reading(tmp_path, model, pictures):
    def read(*words, environment=None, **options):
        path = house.write_run(tmp_path, [house.data_set("a", pictures)], **options)
        return load(Selection(config=str(path)), words, environment={"MODEL": str(model), **(environment or {})})

    return read


def test_one_process_trains_unless_more_are_asked_for(reading):
    assert crew(reading().config.distributed) == Crew(1, 1, 0, "127.0.0.1", 0, "all")


def test_a_config_of_accelerate_says_who_trains(reading, tmp_path):
    (tmp_path / "accelerate.yaml").write_text(ACCELERATE)
    found = crew(reading(accelerate_config=str(tmp_path / "accelerate.yaml")).config.distributed)
    assert found == Crew(4, 2, 1, "10.0.0.1", 29600, "1,3")
    assert found.here() == [Place(2, 4, 0), Place(3, 4, 1)]


def test_arguments_win_over_a_file_and_options_over_both(reading, tmp_path):
    (tmp_path / "accelerate.yaml").write_text(ACCELERATE)
    options = reading(
        accelerate_config=str(tmp_path / "accelerate.yaml"),
        accelerate_extra_args="--multi_gpu --num_processes=8 --num_machines 4 --gpu_ids 0,1",
        num_machines=2,
    ).config.distributed
    assert crew(options) == Crew(8, 2, 1, "10.0.0.1", 29600, "0,1")


VARIABLES = [("TRAINING_NUM_PROCESSES", "3"), ("ACCELERATE_EXTRA_ARGS", "--num_processes 3")]


@pytest.mark.parametrize(("name", "value"), VARIABLES)
def test_variables_of_older_launchers_are_heard_and_told_of(reading, name, value):
    found = reading(environment={name: value})
    assert crew(found.config.distributed).num_processes == 3
    assert any(name in notice for notice in found.notices)


WRONG = [
    ({"num_processes": 3, "num_machines": 2, "main_process_ip": "10.0.0.1"}, "num_processes: is 3, which 2 machines"),
    ({"num_processes": 4, "num_machines": 2}, "main_process_ip: is 127.0.0.1, which is a different place on each"),
    ({"machine_rank": 1}, "machine_rank: is 1; 1 machines count from 0 to 0"),
    ({"num_processes": 0}, "num_processes: must be at least 1"),
    ({"accelerate_config": "/nowhere.yaml"}, "accelerate_config: '/nowhere.yaml' cannot be read"),
    ({"accelerate_extra_args": "--use_fsdp"}, "accelerate_extra_args: '--use_fsdp' is not served; served are gpu_ids"),
    ({"accelerate_extra_args": "--num_processes"}, "accelerate_extra_args: '--num_processes' has no value"),
    ({"accelerate_extra_args": "--num_processes many"}, "has num_processes 'many', which is no whole number from 1 on"),
    ({"accelerate_extra_args": '--gpu_ids "0'}, "cannot be taken apart"),
    ({"num_processes": 2, "fused_backward_pass": True, "max_grad_norm": 0}, "fused_backward_pass: cannot wait for"),
    ({"fsdp_enable": True}, "fsdp_enable: true is not served yet; leave it out: each process keeps the whole model"),
    ({"deepspeed_config": {"zero_stage": 2}}, "deepspeed_config: {'zero_stage': 2} is not served yet; leave it out"),
    ({"context_parallel_size": 2}, "context_parallel_size: 2 is not served yet; leave it out"),
]


@pytest.mark.parametrize(("options", "told"), WRONG)
def test_what_cannot_be_started_is_refused_with_what_to_change(reading, options, told):
    with pytest.raises(ConfigError) as raised:
        reading(**options)
    assert told in str(raised.value)
    assert len(raised.value.problems) == 1


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("distributed_type: FSDP", "has distributed_type FSDP, which is not served"),
        ("distributed_type: DEEPSPEED", "has distributed_type DEEPSPEED, which is not served"),
        ("- 1", "is no config of accelerate"),
        ("a: [", "cannot be read"),
        ("num_processes: none", "has num_processes 'none', which is no whole number"),
    ],
)
def test_a_config_of_accelerate_that_cannot_be_used_says_why(reading, tmp_path, content, told):
    (tmp_path / "accelerate.yaml").write_text(content)
    with pytest.raises(ConfigError, match="accelerate_config: .*" + told):
        reading(accelerate_config=str(tmp_path / "accelerate.yaml"))


def test_several_machines_meet_at_the_port_that_all_of_them_know():
    options = Distributed(num_processes=4, num_machines=2, main_process_ip="10.0.0.1")
    assert crew(options).main_process_port == 29500


def test_a_process_is_told_its_place_its_cards_and_whom_to_meet():
    told = variables(Crew(4, 2, 1, "10.0.0.1", 29600, "1,3"), Place(3, 4, 1), port=29600, threads=2)
    assert told == {
        "RANK": "3",
        "WORLD_SIZE": "4",
        "LOCAL_RANK": "1",
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "10.0.0.1",
        "MASTER_PORT": "29600",
        "OMP_NUM_THREADS": "2",
        "CUDA_VISIBLE_DEVICES": "1,3",
    }
