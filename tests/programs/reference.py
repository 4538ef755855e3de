"""The reference of a program as source text: a Python loop with `jax.grad`."""

from tests.programs.draw import Choices

IMPLICIT = """
    # the theorem at the loop's end, with the Jacobian as a matrix
    params, memory, state = jax.lax.stop_gradient(carry)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    ravel = lambda tree: jax.flatten_util.ravel_pytree(tree)[0]

    def residual(flat, theta):
        return {residual}

    jacobian = jax.jacobian(residual)(flat, jax.lax.stop_gradient(theta))
    change = residual(flat, theta)
    change = change - jax.lax.stop_gradient(change)
    params = unravel(flat - jnp.linalg.solve(jacobian, change))
"""
RESIDUALS = {
    "stationary_point": "ravel(gradient(theta, STEPS - 1, unravel(flat), state)[1])",
    "fixed_point": "flat - ravel("
    "step(theta, STEPS - 1, (unravel(flat), memory, state))[0][0])",
}


def by_python(c: Choices) -> str:
    """`by_python(theta, active)`, which uses nothing of jmeta but a transform."""
    frozen = "trainable" in c.extras
    perturbed = "perturbations" in c.quantities
    cut = c.adjoint == "last"
    data, weights = c.quantity("data", "X"), c.quantity("weights", "W")
    several = "[t]" if c.data == "batches" else ""
    key = "jax.random.fold_in(jax.random.key(7), t)" if "key" in c.extras else "None"
    whole = f'{{**params, "b": {weights}["b"]}}' if frozen else "params"
    start = f'{{"a": {weights}["a"]}}' if frozen else weights
    changes = []
    if c.adjoint == "order1":
        changes.append("grads = jax.lax.stop_gradient(grads)")
    if "callback" in c.extras:
        changes.append(f"grads = ({c.callback})(grads)")
    add = "params = jax.tree.map(lambda p, d: p + d[{}], params, {})"
    add_now = add.format("t", 'theta["perturbations"]')
    add_last = add.format("-1", 'theta["perturbations"]')
    stopped = "jax.lax.stop_gradient(theta)"
    early = "theta"
    if cut:
        early = f"{stopped} if t < CUT else theta"
    if c.implicit:
        early = stopped
    first = f"{stopped} if CUT else theta" if cut else early
    if c.implicit:
        end = IMPLICIT.format(residual=RESIDUALS[c.adjoint])
    else:
        end = "    params = carry[0]\n" + f"    {add_last}\n" * perturbed
    stack = "jax.tree.map(lambda *xs: jnp.stack(xs), *{})"
    source = f"""\
def by_python(theta, active):
{f"    CUT = {max(c.steps - c.last, 0)}{chr(10)}" if cut else ""}
    def gradient(theta, t, params, state):
        x, y, key = {data}{several}, Y{several}, {key}

        def objective(params):
            w = {whole}
            outputs, new = model(theta, w, x, state, key)
            loss, aux = loss_of(theta, outputs, y)
            return loss, (aux, jax.lax.stop_gradient(new))

        return jax.value_and_grad(objective, has_aux=True)(params)

    def step(theta, t, carry):
        params, memory, state = carry
        {add_now if perturbed else ""}
        (loss, (aux, state)), grads = gradient(theta, t, params, state)
        {(chr(10) + " " * 8).join(changes)}
        new, memory = update(theta, t, grads, memory, params)
        return (new, memory, state), (loss, aux, params)

    now = {first}
    carry, kept = ({start.replace("theta", "now")}, None, {{"seen": jnp.zeros(())}}), []
    for t in range(active):
        now = {early}
        carry, one = step(now, t, carry)
        {"if t < CUT:" if cut else ""}
        {"    carry, one = jax.lax.stop_gradient((carry, one))" if cut else ""}
        kept.append(one)
{end}    losses = [loss for loss, _, _ in kept]
    auxes = [aux for _, aux, _ in kept]
    history = [*(p for _, _, p in kept), params]
"""
    lines = [line for line in source.splitlines() if line.strip() or not line]
    results = [
        whole.replace("params[", "params["),
        "jnp.stack(losses)" if "losses" in c.extras else "None",
        stack.format("auxes") if "aux" in c.extras else "None",
        stack.format("history") if "history" in c.extras else "None",
    ]
    return "\n".join(lines) + f"\n    return outer({', '.join(results)})\n"
