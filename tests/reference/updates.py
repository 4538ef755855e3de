"""One differentiable update of each torch optimizer, written as torch writes it.

Each takes the gradient, the parameter, torch's state of it (a dict, replaced in place),
the numeric settings (tensors) and the flags, and returns the new parameter. Forward
values equal torch.optim's; derivatives flow through everything, the settings included.
"""

import torch

Tensor = torch.Tensor


def safe_sqrt(x: Tensor) -> Tensor:
    """Square root whose derivative at 0 is taken as 0."""
    zero = x == 0
    return torch.where(zero, 0.0, torch.where(zero, 1.0, x).sqrt())


def sgd(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g = (-g if flags.get("maximize") else g) + hp["weight_decay"] * p
    momentum, dampening = hp["momentum"], hp["dampening"]
    started = "momentum_buffer" in state
    if momentum != 0:
        buf = (
            momentum * state["momentum_buffer"] + (1 - dampening) * g if started else g
        )
        state["momentum_buffer"] = buf
        state.pop("limit", None)
    elif started:
        buf = g  # torch leaves a buffer that has begun as it is
    else:
        # the limit of small momentum: torch's rule without a buffer to keep
        buf = momentum * state.get("limit", torch.zeros_like(g)) + g
        state["limit"] = buf
    return p - hp["lr"] * (g + momentum * buf if flags.get("nesterov") else buf)


def _moments(g: Tensor, state: dict, hp: dict) -> tuple[Tensor, Tensor, int]:
    beta1, beta2 = hp["betas"]
    zeros = torch.zeros_like(g)
    state["step"] = state.get("step", 0) + 1
    state["exp_avg"] = beta1 * state.get("exp_avg", zeros) + (1 - beta1) * g
    state["exp_avg_sq"] = beta2 * state.get("exp_avg_sq", zeros) + (1 - beta2) * g * g
    return state["exp_avg"], state["exp_avg_sq"], state["step"]


def _decay(
    g: Tensor, p: Tensor, hp: dict, flags: dict, decoupled: bool = False
) -> tuple[Tensor, Tensor]:
    g = -g if flags.get("maximize") else g
    if decoupled or flags.get("decoupled_weight_decay"):
        return g, p * (1 - hp["lr"] * hp["weight_decay"])
    return g + hp["weight_decay"] * p, p


def adam(
    g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict, decoupled: bool = False
) -> Tensor:
    g, p = _decay(g, p, hp, flags, decoupled)
    m, v, t = _moments(g, state, hp)
    beta1, beta2 = hp["betas"]
    if flags.get("amsgrad"):
        v = torch.maximum(state.get("max_exp_avg_sq", torch.zeros_like(v)), v)
        state["max_exp_avg_sq"] = v
    denom = safe_sqrt(v) / (1 - beta2**t).sqrt() + hp["eps"]
    return p - hp["lr"] / (1 - beta1**t) * m / denom


def adamw(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    return adam(g, p, state, hp, flags, decoupled=True)


def nadam(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g, p = _decay(g, p, hp, flags)
    m, v, t = _moments(g, state, hp)
    beta1, beta2 = hp["betas"]
    lr, decay = hp["lr"], hp["momentum_decay"]
    mu = beta1 * (1 - 0.5 * 0.96 ** (t * decay))
    mu_next = beta1 * (1 - 0.5 * 0.96 ** ((t + 1) * decay))
    product = state.get("mu_product", 1.0) * mu
    state["mu_product"] = product
    denom = safe_sqrt(v / (1 - beta2**t)) + hp["eps"]
    p = p - lr * (1 - mu) / (1 - product) * g / denom
    return p - lr * mu_next / (1 - product * mu_next) * m / denom


def radam(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g, p = _decay(g, p, hp, flags)
    m, v, t = _moments(g, state, hp)
    beta1, beta2 = hp["betas"]
    m_hat = m / (1 - beta1**t)
    bias_correction2 = 1 - beta2**t
    rho_inf = 2 / (1 - beta2) - 1
    rho = rho_inf - 2 * t * beta2**t / bias_correction2
    if rho <= 5:
        return p - hp["lr"] * m_hat
    top = (rho - 4) * (rho - 2) * rho_inf
    rectified = (top / ((rho_inf - 4) * (rho_inf - 2) * rho)).sqrt()
    adaptive = bias_correction2.sqrt() / (safe_sqrt(v) + hp["eps"])
    return p - hp["lr"] * m_hat * adaptive * rectified


def adagrad(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g, p = _decay(g, p, hp, flags)
    t = state["step"] = state.get("step", 0) + 1
    start = hp["initial_accumulator_value"] * torch.ones_like(g)
    state["sum"] = state.get("sum", start) + g * g
    rate = hp["lr"] / (1 + (t - 1) * hp["lr_decay"])
    return p - rate * g / (safe_sqrt(state["sum"]) + hp["eps"])


def adadelta(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g, p = _decay(g, p, hp, flags)
    rho, eps, zeros = hp["rho"], hp["eps"], torch.zeros_like(g)
    state["step"] = state.get("step", 0) + 1
    state["square_avg"] = rho * state.get("square_avg", zeros) + (1 - rho) * g * g
    acc_delta = state.get("acc_delta", zeros)
    delta = (acc_delta + eps).sqrt() / (state["square_avg"] + eps).sqrt() * g
    state["acc_delta"] = rho * acc_delta + (1 - rho) * delta * delta
    return p - hp["lr"] * delta


def rmsprop(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g, p = _decay(g, p, hp, flags)
    alpha, zeros = hp["alpha"], torch.zeros_like(g)
    state["step"] = state.get("step", 0) + 1
    avg = state["square_avg"] = (
        alpha * state.get("square_avg", zeros) + (1 - alpha) * g * g
    )
    if flags.get("centered"):
        mean = alpha * state.get("grad_avg", zeros) + (1 - alpha) * g
        state["grad_avg"] = mean
        avg = avg - mean * mean
    direction = g / (safe_sqrt(avg) + hp["eps"])
    # with a momentum of 0 this is torch's rule without a buffer
    buf = hp["momentum"] * state.get("momentum_buffer", zeros) + direction
    state["momentum_buffer"] = buf
    return p - hp["lr"] * buf


def adamax(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g, p = _decay(g, p, hp, flags)
    beta1, beta2 = hp["betas"]
    zeros = torch.zeros_like(g)
    t = state["step"] = state.get("step", 0) + 1
    state["exp_avg"] = beta1 * state.get("exp_avg", zeros) + (1 - beta1) * g
    state["exp_inf"] = torch.maximum(
        beta2 * state.get("exp_inf", zeros), g.abs() + hp["eps"]
    )
    return p - hp["lr"] / (1 - beta1**t) * state["exp_avg"] / state["exp_inf"]


def asgd(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g, p = _decay(g, p, hp, flags)
    lr, lambd = hp["lr"], hp["lambd"]
    t = state["step"] = state.get("step", 0) + 1
    eta, mu = state.get("eta", lr), state.get("mu", torch.ones(()))
    p = p * (1 - lambd * eta) - eta * g
    ax = state.get("ax", torch.zeros_like(p))
    state["ax"] = p if mu == 1 else ax + (p - ax) * mu
    state["eta"] = lr / (1 + lambd * lr * t) ** hp["alpha"]
    state["mu"] = 1 / torch.maximum(torch.ones(()), t - hp["t0"])
    return p


def rprop(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g = -g if flags.get("maximize") else g
    (minus, plus), (low, high) = hp["etas"], hp["step_sizes"]
    state["step"] = state.get("step", 0) + 1
    sign = (g * state.get("prev", torch.zeros_like(g))).sign()
    factor = torch.where(sign > 0, plus, torch.where(sign < 0, minus, 1.0))
    size = state.get("step_size", hp["lr"] * torch.ones_like(g)) * factor
    size = torch.minimum(torch.maximum(size, low), high)
    g = torch.where(sign < 0, 0.0, g)
    state["step_size"], state["prev"] = size, g
    return p - g.sign() * size


def _rms(x: Tensor) -> Tensor:
    return safe_sqrt((x * x).mean())


def adafactor(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    g = -g if flags.get("maximize") else g
    t = state["step"] = state.get("step", 0) + 1
    weight = t ** hp["beta2_decay"]
    lr, (eps1, eps2) = hp["lr"], hp["eps"]
    rho = torch.minimum(lr, torch.tensor(t**-0.5))
    alpha = torch.maximum(eps2, _rms(p)) * rho
    p = p * (1 - lr * hp["weight_decay"])
    if g.dim() > 1:
        for key, axis in (("row_var", -1), ("col_var", -2)):
            mean = (g * g).mean(axis, keepdim=True)
            state[key] = torch.lerp(state.get(key, 0 * mean), mean, weight)
        total = torch.maximum(state["row_var"].mean(-2, keepdim=True), eps1)
        variance = state["row_var"] @ state["col_var"] / total
    else:
        old = state.get("variance", torch.zeros_like(g))
        variance = state["variance"] = torch.lerp(old, g * g, weight)
    update = g / torch.maximum(safe_sqrt(variance), eps1)
    ratio = _rms(update) / hp["d"]
    # where both meet, but for rounding, the mean of the slopes on both sides
    if (ratio - 1).abs() < 1e-14:
        clip = 1 + 0.5 * (ratio - ratio.detach())
    else:
        clip = ratio.clamp(min=1)
    return p - alpha * update / clip


def muon(g: Tensor, p: Tensor, state: dict, hp: dict, flags: dict) -> Tensor:
    momentum, (a, b, c) = hp["momentum"], hp["ns_coefficients"]
    old = state.get("momentum_buffer", torch.zeros_like(g))
    buf = state["momentum_buffer"] = momentum * old + (1 - momentum) * g
    x = (1 - momentum) * g + momentum * buf if flags.get("nesterov", True) else buf
    tall = g.shape[0] > g.shape[1]
    x = (x.T if tall else x) / torch.maximum(safe_sqrt((x * x).sum()), hp["eps"])
    for _ in range(flags.get("ns_steps", 5)):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    rows, columns = g.shape
    if flags.get("adjust_lr_fn") == "match_rms_adamw":
        factor = 0.2 * max(rows, columns) ** 0.5
    else:
        factor = max(1, rows / columns) ** 0.5
    p = p * (1 - hp["lr"] * hp["weight_decay"])
    return p - hp["lr"] * factor * (x.T if tall else x)


UPDATES = {
    "SGD": sgd,
    "Adam": adam,
    "AdamW": adamw,
    "NAdam": nadam,
    "RAdam": radam,
    "Adagrad": adagrad,
    "Adadelta": adadelta,
    "RMSprop": rmsprop,
    "Adamax": adamax,
    "ASGD": asgd,
    "Rprop": rprop,
    "Adafactor": adafactor,
    "Muon": muon,
}

# the numeric settings of each, in torch's order
SETTINGS = {
    "SGD": "lr momentum dampening weight_decay",
    "Adam": "lr betas eps weight_decay",
    "AdamW": "lr betas eps weight_decay",
    "NAdam": "lr betas eps weight_decay momentum_decay",
    "RAdam": "lr betas eps weight_decay",
    "Adagrad": "lr lr_decay weight_decay initial_accumulator_value eps",
    "Adadelta": "lr rho eps weight_decay",
    "RMSprop": "lr alpha eps weight_decay momentum",
    "Adamax": "lr betas eps weight_decay",
    "ASGD": "lr lambd alpha t0 weight_decay",
    "Rprop": "lr etas step_sizes",
    "Adafactor": "lr beta2_decay eps d weight_decay",
    "Muon": "lr weight_decay momentum ns_coefficients eps",
}
