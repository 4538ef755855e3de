"""How both sides of a program are called and differentiated, as source text."""

COMPOSED = {
    "grad": """\
result = jax.jit(jax.value_and_grad(by_jmeta))(thetas[0], actives[0])
expected = jax.jit(jax.value_and_grad(by_python), static_argnums=1)(
    thetas[0], actives[0]
)
""",
    "vmap_of_grad": """\
result = jax.jit(jax.vmap(jax.grad(by_jmeta)))(stacked, jnp.array(actives))
expected = each(jax.grad(by_python))
""",
    "grad_of_vmap": """\
def total(stacked):
    return jnp.dot(jax.vmap(by_jmeta)(stacked, jnp.array(actives)), SHARES)


result = jax.jit(jax.grad(total))(stacked)
expected = each(jax.grad(by_python))
scale = lambda x: x * SHARES.reshape(2, *[1] * (x.ndim - 1))
expected = jax.tree.map(scale, expected)
""",
    "grad_of_grad": """\
def slope(loop):
    def along(theta, active):
        grads = jax.tree.leaves(jax.grad(loop)(theta, active))
        wave = lambda g: jnp.cos(jnp.arange(float(g.size)).reshape(g.shape))
        return sum(jnp.sum(g * wave(g)) for g in grads)

    return jax.value_and_grad(along)


result = jax.jit(slope(by_jmeta))(thetas[0], actives[0])
expected = jax.jit(slope(by_python), static_argnums=1)(thetas[0], actives[0])
""",
    "map": """\
def one(task):
    return jax.grad(by_jmeta)(*task)


result = jax.jit(lambda *tasks: jax.lax.map(one, tasks))(stacked, jnp.array(actives))
expected = each(jax.grad(by_python))
""",
    "shard_map": """\
def local(stacked, actives):
    theta, active = jax.tree.map(lambda x: x[0], (stacked, actives))
    return jax.tree.map(lambda g: g[None], jax.grad(by_jmeta)(theta, active))


mesh = jax.make_mesh((2,), ("task",), (AxisType.Auto,), devices=jax.devices()[:2])
split = PartitionSpec("task")
on_devices = jax.shard_map(local, mesh=mesh, in_specs=split, out_specs=split)
result = jax.jit(on_devices)(stacked, jnp.array(actives))
expected = each(jax.grad(by_python))
""",
}

EACH = """\
stacked = jax.tree.map(lambda *xs: jnp.stack(xs), *thetas)
SHARES = jnp.array([1.0, -2.0])


def each(function):
    compiled = jax.jit(function, static_argnums=1)
    results = [compiled(*task) for task in zip(thetas, actives)]
    return jax.tree.map(lambda *xs: jnp.stack(xs), *results)
"""
