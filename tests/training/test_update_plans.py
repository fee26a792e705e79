"""What the options of the optimizer and the schedule mean together, in every spelling that people use."""

import importlib.util

import pytest
from pydantic import ValidationError

from simpletuner.training import update_plans
from simpletuner.training.optimizers import OPTIMIZERS, optimi
from simpletuner.training.optimizers.names import ALIASES
from simpletuner.training.optimizers.recipe import Library
from simpletuner.training.options import Optimization
from simpletuner.training.options.steps import steps_of

OF_SIMPLETUNER = """
torch-adam torch-adamw torch-sgd torch-radam torch-nadam torch-rmsprop torch-adagrad torch-adadelta
torch-adafactor torch-adamax torch-asgd adamw_bf16 adamw_schedulefree adamw_schedulefree+aggressive
adamw_schedulefree+no_kahan soap muon ao-adamw8bit ao-adamw4bit ao-adamfp8 ao-adamwfp8 optimi-stableadamw
optimi-adamw optimi-lion optimi-radam optimi-ranger optimi-adan optimi-adam optimi-sgd bnb-adagrad
bnb-adagrad8bit bnb-adam bnb-adam8bit bnb-adamw bnb-adamw8bit bnb-adamw-paged bnb-adamw8bit-paged bnb-lion
bnb-lion8bit bnb-lion-paged bnb-lion8bit-paged prodigy sdnq-adamw sdnq-adamw+no_quant sdnq-adafactor sdnq-came
sdnq-lion sdnq-muon sdnq-muon+quantized_matmul bnb-ademamix bnb-ademamix8bit bnb-ademamix-paged
bnb-ademamix8bit-paged
"""

OF_SD_SCRIPTS = """
AdamW AdamW8bit PagedAdamW PagedAdamW8bit PagedAdamW32bit Lion Lion8bit PagedLion8bit SGDNesterov
SGDNesterov8bit AdaFactor DAdaptation DAdaptAdamPreprint DAdaptAdaGrad DAdaptAdam DAdaptAdan DAdaptAdanIP
DAdaptLion DAdaptSGD RAdamScheduleFree AdamWScheduleFree SGDScheduleFree bitsandbytes.optim.AdEMAMix8bit
prodigyplus.ProdigyPlusScheduleFree pytorch_optimizer.CAME bitsandbytes.optim.AdamW8bit bitsandbytes.optim.PagedLion8bit
torch.optim.RAdam torch.optim.Adagrad dadaptation.DAdaptAdam dadaptation.DAdaptAdaGrad
"""


def options(**given):
    return Optimization.model_validate(given)


def problems(**given):
    return [str(one) for one in update_plans.conflicts(options(**given))]


def remarks(**given):
    return list(update_plans.remarks(options(**given)))


def rate(total=1000, images=4, **given):
    return update_plans.learning_rate(options(**given), total_steps=total, images_per_step=images)


@pytest.mark.parametrize("name", OF_SIMPLETUNER.split())
def test_every_name_of_simpletuner_but_the_sparse_one_is_served(name):
    assert options(optimizer=name).optimizer in OPTIMIZERS


@pytest.mark.parametrize("name", OF_SD_SCRIPTS.split())
@pytest.mark.parametrize("spelled", [str, str.lower, str.upper])
def test_every_name_of_sd_scripts_is_served_in_any_case(name, spelled):
    assert options(optimizer=spelled(name)).optimizer in OPTIMIZERS


def test_all_other_names_lead_somewhere():
    assert set(ALIASES.values()) <= set(OPTIMIZERS)


def test_prodigy_is_told_apart_by_its_capital_letter():
    assert [options(optimizer=name).optimizer for name in ("prodigy", "Prodigy")] == ["prodigy", "prodigyopt"]


def test_the_sparse_one_is_refused_with_the_reason():
    assert "sparse gradients" in OPTIMIZERS.later["torch-sparseadam"]


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("weight_decay=0.01,betas=0.9,0.99", {"weight_decay": 0.01, "betas": [0.9, 0.99]}),
        ("weight_decay=0.01 betas=.9,.99", {"weight_decay": 0.01, "betas": [0.9, 0.99]}),
        ("betas=(0.9, 0.95, 0.999), eps=1e-8", {"betas": [0.9, 0.95, 0.999], "eps": 1e-8}),
        (["weight_decay=0.01", "decouple=True", "beta3=None"], {"weight_decay": 0.01, "decouple": True, "beta3": None}),
        ("use_speed=true,format=channels_last", {"use_speed": True, "format": "channels_last"}),
        ('{"eps": 1e-6}', {"eps": 1e-6}),
        ({"eps": 1e-6}, {"eps": 1e-6}),
        ("k = 3", {"k": 3}),
        ("eps=none,1e-3", {"eps": [None, 1e-3]}),
    ],
)
def test_settings_may_be_written_in_many_ways(written, meant):
    assert options(optimizer_config=written).optimizer_config == meant


@pytest.mark.parametrize("written", ["weight_decay", "=1", "a=1,b", "a b=1", "{oops", "a=1,2,three"])
def test_settings_that_cannot_be_read_are_told(written):
    with pytest.raises(ValidationError, match="is not of the form name=value|is not JSON"):
        options(optimizer_config=written)


@pytest.mark.parametrize(
    ("written", "steps"),
    [
        *((100, 100), ("100", 100), (100.0, 100), (0, 0), ("0%", 0)),
        *((0.05, 50), ("0.05", 50), ("5%", 50), ("2.5 %", 25), (0.0347, 35)),
    ],
)
def test_warm_up_is_steps_a_share_or_a_percentage(written, steps):
    assert steps_of(options(lr_warmup_steps=written).lr_warmup_steps, 1000) == steps
    assert rate(lr_warmup_steps=written).warmup_steps == steps


@pytest.mark.parametrize("written", [-1, 1.5, "100%", "-5%", "many", True, "nan", "inf"])
def test_a_warm_up_that_is_none_of_these_is_refused(written):
    with pytest.raises(ValidationError, match="must be a whole number of steps, a share of the run such as 0.05"):
        options(lr_warmup_steps=written)


def test_the_rate_is_scaled_by_the_images_of_a_step():
    assert rate(learning_rate=1e-4, lr_scale=True).peak == pytest.approx(4e-4)
    assert rate(learning_rate=1e-4, lr_scale=True, lr_scale_sqrt=True).peak == pytest.approx(2e-4)


def test_an_optimizer_that_finds_the_rate_is_given_a_factor_and_told_so():
    assert rate(optimizer="prodigy", learning_rate=1e-4).peak == 1.0
    assert rate(optimizer="prodigy", optimizer_config="lr=0.5").peak == 0.5
    assert remarks(optimizer="prodigy", learning_rate=1e-4) == [
        "learning_rate has no effect: optimizer prodigy finds the learning rate by itself, times 1; lr in "
        "optimizer_config changes that factor"
    ]
    assert not remarks(optimizer="prodigy") and not remarks(optimizer="prodigyopt", learning_rate=1)


def test_a_schedule_free_optimizer_has_a_constant_rate_after_the_warm_up():
    found = rate(optimizer="adamw_schedulefree", lr_scheduler="cosine", lr_warmup_steps=10, learning_rate=1e-3)
    assert [found.at(step) for step in (4, 9, 500, 999)] == pytest.approx([5e-4, 1e-3, 1e-3, 1e-3])
    (said,) = remarks(optimizer="adamw_schedulefree", lr_scheduler="cosine")
    assert said.startswith("lr_scheduler has no effect: optimizer adamw_schedulefree needs no schedule")


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"optimizer": "torch-sgd", "optimizer_beta1": 0.9, "optimizer_beta2": 0.9}, "'torch-sgd' has no betas"),
        ({"optimizer": "soap", "fused_backward_pass": True}, "fused_backward_pass: 'soap' needs the gradients of all"),
        (
            {"optimizer": "prodigy", "optimizer_release_gradients": True},
            "optimizer_release_gradients: 'prodigy' needs the gradients of all weights",
        ),
        ({"optimizer": "prodigy", "lr_scale": True}, "lr_scale: 'prodigy' finds the learning rate by itself"),
        ({"optimizer_config": "lr=1"}, "optimizer_config: has an lr in it; set learning_rate instead"),
        ({"optimizer_config": "betas=0.9"}, "betas must be 2 numbers, such as betas=0.9,0.999, got 0.9, for opt"),
        ({"optimizer_config": {"betas": [0.9]}}, "betas must be 2 numbers"),
        ({"optimizer_config": "betas=2,0.9"}, "betas must be from 0 to below 1, got [2, 0.9]"),
        ({"optimizer_config": "eps=abc"}, "eps must be a number, got 'abc', for optimizer 'adamw_bf16'"),
        ({"optimizer_config": "weight_decay=1e400"}, "weight_decay must be a number, got inf"),
        ({"optimizer_config": "weight_decay=-1"}, "weight_decay must be at least 0, got -1"),
        ({"optimizer_config": {"weight_decay": True}}, "weight_decay must be a number, got True"),
        ({"optimizer": "adamw", "optimizer_config": "fused=1"}, "fused must be true or false, got 1"),
        ({"optimizer": "came", "optimizer_config": "betas=0.9,0.99"}, "betas must be 3 numbers"),
        ({"optimizer": "prodigy", "optimizer_config": "fused_back_pass=true"}, "fused_back_pass cannot be set here"),
        ({"optimizer": "optimi-ranger", "optimizer_config": "k=0"}, "k must be a whole number of at least 1, got 0"),
        ({"optimizer": "prodigy", "optimizer_config": "prodigy_steps=5", "prodigy_steps": 9}, "prodigy_steps: is said"),
        (
            {"optimizer_config": "betas=0.9,0.99", "optimizer_beta1": 0.8, "optimizer_beta2": 0.9},
            "optimizer_beta1, optimizer_beta2: is said by betas in optimizer_config too; keep one of them",
        ),
    ],
)
def test_what_does_not_go_together_is_told(given, problem):
    (said,) = problems(**given)
    assert problem in said


@pytest.mark.parametrize("rate", ["abc", None, -1, 0, "nan", True])
def test_the_factor_of_an_optimizer_that_finds_the_rate_is_a_number_above_zero(rate):
    with pytest.raises(ValidationError, match="has an lr that is not a number above 0"):
        options(optimizer="prodigy", optimizer_config={"lr": rate})


def test_an_optimizer_that_is_not_served_has_no_remarks():
    assert not remarks(optimizer="torch-sparseadam") and not problems(optimizer="torch-sparseadam")


def test_rates_of_some_weights_are_compared_with_the_factor_where_the_rate_is_found():
    assert update_plans.measure(options(optimizer="prodigy", learning_rate=1e-4)) == 1
    assert update_plans.measure(options(optimizer="prodigy", optimizer_config="lr=0.5")) == 0.5
    assert update_plans.measure(options(learning_rate=1e-4)) == 1e-4
    said = update_plans.as_factors(options(optimizer="prodigy"))
    assert said == "multiplies the learning rate that prodigy finds; 1 does not change it"
    assert update_plans.as_factors(options()) is None


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"lr_warmup_steps": 10}, "the learning rate only rises: lr_warmup_steps is 10, and the run ends at step 10"),
        ({"lr_warmup_steps": 9}, None),
        ({"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:5,0.1:10,0.01"}, "a rule for step 10 that is nev"),
        ({"lr_scheduler": "piecewise_constant", "lr_step_rules": "1:9,0.1"}, None),
    ],
)
def test_what_a_run_is_too_short_for_is_told(given, said):
    told = list(update_plans.too_long(options(**given), 10))
    assert [said in one for one in told] == [True] if said else not told


@pytest.mark.parametrize("schedule", ["cosine", "sine", "cosine_with_restarts", "rex", "warmup_stable_decay"])
def test_a_rate_below_the_end_of_its_schedule_is_refused(schedule):
    with pytest.raises(ValidationError, match=f"1e-07 is not above 4e-07, where the {schedule} schedule ends"):
        options(lr_scheduler=schedule, learning_rate=1e-7)
    assert options(lr_scheduler=schedule, learning_rate=1e-7, optimizer="prodigy")


@pytest.mark.parametrize("given", [{"lr_scheduler": "piecewise_constant"}, {"lr_step_rules": "1:10,0.1"}])
def test_rules_and_their_schedule_go_together(given):
    with pytest.raises(ValidationError, match="go together: piecewise_constant needs rules, and only it"):
        options(**given)


def test_rules_are_read_when_the_config_is():
    for step in ("x", "²"):
        with pytest.raises(ValidationError, match=f"'1:{step}' is not of the form factor:step"):
            options(lr_scheduler="piecewise_constant", lr_step_rules=f"1:{step},0.1")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"optimizer": "ao-adamw8bit"}, "is a name of torchao's; here, bitsandbytes.optim.AdamW8bit does its work"),
        ({"optimizer": "optimi-stableadamw", "max_grad_norm": 1.0}, "max_grad_norm has no effect"),
        ({"grad_clip_method": "value", "max_grad_norm": 0}, "grad_clip_method has no effect: max_grad_norm is 0"),
        ({"lr_scale_sqrt": True}, "lr_scale_sqrt has no effect: lr_scale is not set"),
        ({"prodigy_steps": 5}, "prodigy_steps has no effect: it is for optimizer prodigy"),
        ({"lr_scheduler": "cosine", "lr_power": 2.0}, "lr_power has no effect: lr_scheduler is cosine"),
        ({"lr_num_cycles": 2}, "lr_num_cycles has no effect: lr_scheduler is constant_with_warmup"),
        ({"optimizer": "adafactor", "optimizer_config": "relative_step=true"}, "relative_step makes the learning rate"),
    ],
)
def test_what_has_no_effect_is_told(given, said):
    (told,) = remarks(**given)
    assert said in told


def test_nothing_is_told_about_a_plain_run():
    assert not remarks() and not problems()


def test_prodigy_stops_where_it_is_told_to():
    given = options(optimizer="prodigy", prodigy_steps=50, optimizer_config="d0=1e-5")
    assert update_plans.settings(given, 1.0).extra == {"prodigy_steps": 50, "d0": 1e-5}


def test_a_missing_package_is_told_with_what_installs_it():
    assert Library("no_such_module", "no-such-package").missing() == (
        "needs the package no-such-package, which is not installed; install it with: pip install "
        "'simpletuner[optimizers]'"
    )
    assert "pip install 'simpletuner[bnb]'" in (Library("no_such_module", "bitsandbytes", extra="bnb").missing() or "")


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_package_of_every_optimizer_is_one_that_an_extra_installs(name, root):
    library = OPTIMIZERS[name].library
    extras = (root / "pyproject.toml").read_text()
    assert importlib.util.find_spec(library.module)
    assert library.extra is None or f'"{library.package}>=' in extras


def test_two_optimizers_of_a_name_have_one_recipe():
    assert OPTIMIZERS["adamw"] is OPTIMIZERS["torch-adamw"]
    assert set(optimi.TABLE) <= set(OPTIMIZERS)
