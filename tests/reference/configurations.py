"""The settings that every optimizer is recorded with, under torch's names.

`CONFIGURATIONS[name] = (optimizer, settings on the network, lr on Rosenbrock)`; the
other settings are the same on both problems.
"""

CONFIGURATIONS: dict[str, tuple[str, dict, float]] = {
    "sgd": ("SGD", dict(lr=0.1), 5e-4),
    "sgd_momentum": ("SGD", dict(lr=0.05, momentum=0.9), 5e-4),
    "sgd_dampening": ("SGD", dict(lr=0.1, momentum=0.8, dampening=0.3), 5e-4),
    "sgd_nesterov": ("SGD", dict(lr=0.05, momentum=0.9, nesterov=True), 3e-4),
    "sgd_wd": ("SGD", dict(lr=0.1, weight_decay=0.05), 5e-4),
    "sgd_momentum_wd": ("SGD", dict(lr=0.08, momentum=0.5, weight_decay=0.02), 5e-4),
    "sgd_maximize": (
        "SGD",
        dict(lr=0.02, momentum=0.5, weight_decay=0.1, maximize=True),
        1e-5,
    ),
    "adam": ("Adam", dict(lr=0.02), 0.02),
    "adam_betas": ("Adam", dict(lr=0.03, betas=(0.7, 0.9)), 0.03),
    "adam_eps": ("Adam", dict(lr=0.03, betas=(0.8, 0.95), eps=1e-2), 0.03),
    "adam_amsgrad": ("Adam", dict(lr=0.05, betas=(0.8, 0.85), amsgrad=True), 0.05),
    "adam_wd": ("Adam", dict(lr=0.02, weight_decay=0.1, eps=1e-3), 0.02),
    "adam_maximize": (
        "Adam",
        dict(lr=0.01, maximize=True, weight_decay=0.05, eps=1e-3),
        0.01,
    ),
    "adam_decoupled": (
        "Adam",
        dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
        0.02,
    ),
    "adamw": ("AdamW", dict(lr=0.02), 0.02),
    "adamw_wd": (
        "AdamW",
        dict(lr=0.03, weight_decay=0.2, betas=(0.85, 0.95), eps=1e-4),
        0.03,
    ),
    "adamw_amsgrad": (
        "AdamW",
        dict(lr=0.05, weight_decay=0.1, betas=(0.8, 0.85), amsgrad=True),
        0.05,
    ),
    "adamw_maximize": ("AdamW", dict(lr=0.01, maximize=True), 0.01),
    "nadam": ("NAdam", dict(lr=0.02), 0.02),
    "nadam_wd": (
        "NAdam",
        dict(
            lr=0.02, weight_decay=0.05, momentum_decay=0.02, betas=(0.8, 0.9), eps=1e-3
        ),
        0.02,
    ),
    "nadam_decoupled": (
        "NAdam",
        dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
        0.02,
    ),
    "nadam_maximize": ("NAdam", dict(lr=0.01, maximize=True), 0.01),
    "radam": ("RAdam", dict(lr=0.02), 1e-4),
    "radam_betas": ("RAdam", dict(lr=0.03, betas=(0.8, 0.95), eps=1e-3), 1e-4),
    "radam_wd": ("RAdam", dict(lr=0.02, weight_decay=0.05), 1e-4),
    "radam_decoupled": (
        "RAdam",
        dict(lr=0.02, weight_decay=0.1, decoupled_weight_decay=True),
        1e-4,
    ),
    "radam_maximize": ("RAdam", dict(lr=0.01, maximize=True), 1e-5),
    "adagrad": ("Adagrad", dict(lr=0.1), 0.1),
    "adagrad_lr_decay": ("Adagrad", dict(lr=0.1, lr_decay=0.1), 0.1),
    "adagrad_initial": ("Adagrad", dict(lr=0.1, initial_accumulator_value=0.1), 0.1),
    "adagrad_full": (
        "Adagrad",
        dict(
            lr=0.1,
            lr_decay=0.05,
            initial_accumulator_value=0.02,
            weight_decay=0.03,
            eps=1e-3,
        ),
        0.1,
    ),
    "adagrad_maximize": ("Adagrad", dict(lr=0.05, maximize=True), 0.05),
    "adadelta": ("Adadelta", dict(lr=1.0), 1.0),
    "adadelta_full": (
        "Adadelta",
        dict(lr=0.7, rho=0.8, eps=1e-3, weight_decay=0.05),
        0.7,
    ),
    "adadelta_maximize": ("Adadelta", dict(lr=1.0, maximize=True), 1.0),
    "rmsprop": ("RMSprop", dict(lr=0.01), 0.01),
    "rmsprop_centered": ("RMSprop", dict(lr=0.01, alpha=0.9, centered=True), 0.005),
    "rmsprop_momentum": ("RMSprop", dict(lr=0.005, alpha=0.95, momentum=0.6), 0.005),
    "rmsprop_full": (
        "RMSprop",
        dict(
            lr=0.004,
            alpha=0.9,
            momentum=0.7,
            centered=True,
            weight_decay=0.05,
            eps=1e-3,
        ),
        0.004,
    ),
    "rmsprop_maximize": ("RMSprop", dict(lr=0.005, maximize=True), 0.005),
    "adamax": ("Adamax", dict(lr=0.02), 0.02),
    "adamax_wd": (
        "Adamax",
        dict(lr=0.03, betas=(0.8, 0.9), weight_decay=0.05, eps=1e-3),
        0.03,
    ),
    "adamax_maximize": ("Adamax", dict(lr=0.01, maximize=True), 0.01),
    "asgd": ("ASGD", dict(lr=0.1, t0=2.5), 5e-4),
    "asgd_strong": (
        "ASGD",
        dict(lr=0.1, lambd=0.2, alpha=0.6, t0=2.5, weight_decay=0.03),
        5e-4,
    ),
    "asgd_maximize": ("ASGD", dict(lr=0.01, t0=2.5, maximize=True), 1e-5),
    "rprop": ("Rprop", dict(lr=0.02), 0.02),
    "rprop_etas": (
        "Rprop",
        dict(lr=0.02, etas=(0.6, 1.4), step_sizes=(0.004, 0.05)),
        0.02,
    ),
    "rprop_maximize": ("Rprop", dict(lr=0.01, maximize=True), 0.01),
}

# settings at exactly 0 beside the defaults that already are, all on the network
ZEROS: dict[str, tuple[str, dict]] = {
    "sgd_lr": ("SGD", dict(lr=0.0, momentum=0.5)),
    "sgd_momentum": ("SGD", dict(lr=0.1, momentum=0.0, weight_decay=0.0)),
    "adam_lr": ("Adam", dict(lr=0.0)),
    "adam_beta1": ("Adam", dict(lr=0.02, betas=(0.0, 0.9))),
    "adam_beta2": ("Adam", dict(lr=0.02, betas=(0.9, 0.0), eps=1e-2)),
    "adam_eps": ("Adam", dict(lr=0.02, betas=(0.8, 0.9), eps=0.0)),
    "adamw_wd": ("AdamW", dict(lr=0.02, weight_decay=0.0)),
    "nadam_momentum_decay": ("NAdam", dict(lr=0.02, momentum_decay=0.0)),
    "adagrad_eps": ("Adagrad", dict(lr=0.1, initial_accumulator_value=0.1, eps=0.0)),
    "adadelta_rho": ("Adadelta", dict(lr=0.7, rho=0.0, eps=1e-3)),
    "rmsprop_alpha": ("RMSprop", dict(lr=0.005, alpha=0.0, eps=1e-2)),
    "rmsprop_momentum": ("RMSprop", dict(lr=0.005, alpha=0.9, eps=1e-3)),
    "adamax_betas": ("Adamax", dict(lr=0.02, betas=(0.0, 0.0), eps=1e-3)),
    "asgd_lambd": ("ASGD", dict(lr=0.1, lambd=0.0, alpha=0.0, t0=2.5)),
}

_FIRST = ("0.weight", "0.bias")
_SECOND = ("2.weight", "2.bias")

# two groups of parameters: what torch takes as a list of dicts
GROUPS: dict[str, tuple[str, list[dict]]] = {
    "sgd": (
        "SGD",
        [
            dict(params=_FIRST, lr=0.1, momentum=0.5, weight_decay=0.02),
            dict(params=_SECOND, lr=0.03, momentum=0.9, nesterov=True),
        ],
    ),
    "adam": (
        "Adam",
        [
            dict(params=_FIRST, lr=0.01, betas=(0.8, 0.9)),
            dict(params=_SECOND, lr=0.03, eps=1e-3, weight_decay=0.05),
        ],
    ),
    "rmsprop": (
        "RMSprop",
        [
            dict(params=_FIRST, lr=0.01, alpha=0.9),
            dict(params=_SECOND, lr=0.004, momentum=0.6, centered=True),
        ],
    ),
    "adagrad": (
        "Adagrad",
        [
            dict(params=_FIRST, lr=0.1, lr_decay=0.1, eps=1e-3),
            dict(params=_SECOND, lr=0.03, weight_decay=0.05),
        ],
    ),
}


def kwargs_on(name: str, problem: str) -> dict:
    """Arguments of a configuration for the optimizer on a problem."""
    kwargs, lr = CONFIGURATIONS[name][1:]
    return kwargs if problem == "mlp" else {**kwargs, "lr": lr}
