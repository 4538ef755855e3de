"""Meta-gradient reinforcement learning: discount and learning rate, learned on the way.

On a chain of seven cells an agent starts beside the left end, which pays 0.2; the right
end, five moves off, pays 1. With a discount of 0.5 the near reward is worth more. As in
Xu et al. (2018), the agent trains by policy gradients, while the discount and the rate
that it trains with follow the gradient, through five of its updates, of what new
episodes bring. From a discount of 0.5 and a rate of 0.1, 16 agents come to a return of
1.00, the best there is, and to a discount of 0.99; with both fixed they end at 0.21.

    python examples/meta_rl.py
"""

import argparse
import pathlib

import jax
import jax.numpy as jnp
import optax

import jmeta

CELLS, HORIZON, EPISODES, UPDATES = 7, 20, 32, 5
TX = jmeta.optim.sgd()
discount_of = lambda free: jax.nn.sigmoid(free[0])  # of the two learned numbers
rate_of = lambda free: {"lr": jnp.exp(free[1])}


def episode(logits, key):
    """Log-probabilities of the moves, rewards, and 1 as long as it goes on, else 0."""

    def move(carry, key):
        cell, going = carry
        log_policy = jax.nn.log_softmax(logits[cell])
        action = jax.random.categorical(key, log_policy)
        new = cell + 2 * action - 1
        reward = going * (0.2 * (new == 0) + 1.0 * (new == CELLS - 1))
        goes_on = going * ((new > 0) & (new < CELLS - 1))
        seen = log_policy[action], reward, going
        return (jnp.clip(new, 0, CELLS - 1), goes_on), seen

    start = jnp.array(1), jnp.array(1.0)
    return jax.lax.scan(move, start, jax.random.split(key, HORIZON))[1]


def policy_loss(logits, discount, key):
    """REINFORCE: its gradient is minus that of the return, which comes with it."""
    keys = jax.random.split(key, EPISODES)
    log_probs, rewards, going = jax.vmap(episode, (None, 0))(logits, keys)
    sums = lambda later, reward: (reward + discount * later,) * 2
    returns = jax.lax.scan(sums, jnp.zeros(EPISODES), rewards.T, reverse=True)[1].T
    baseline = (returns * going).sum(0) / jnp.maximum(going.sum(0), 1.0)
    gains = log_probs * going * (returns - baseline[None])
    return -gains.sum() / EPISODES, rewards.sum() / EPISODES


def objective(logits, task, meta_params, key):
    """What an update descends on: new episodes, and a little entropy."""
    negative_entropy = jax.nn.softmax(logits) * jax.nn.log_softmax(logits)
    loss, _ = policy_loss(logits, discount_of(meta_params), key)
    return loss + 0.01 * negative_entropy.sum() / CELLS


def outer(logits, task, key):
    """What the settings descend on: new episodes, and the far reward nearly in full."""
    loss, total = policy_loss(logits, 0.99, key)
    return loss, (logits, total)


NAMED = {"outer": outer, "init": lambda free, agent: agent, "hyperparams": rate_of}
task_loss = jmeta.algorithms.adapted(objective, TX, UPDATES, has_aux=True, **NAMED)


def live(key, discount, meta_lr, meta_steps):
    """Return, discount and rate of an agent after each five updates."""
    tx = optax.adam(meta_lr)

    def meta_step(carry, key):
        free, logits, opt_state = carry
        grads, aux = jax.grad(task_loss, has_aux=True)(free, logits, key)
        logits, total = aux.outputs
        updates, opt_state = tx.update(grads, opt_state)
        free += updates
        seen = {"discount": discount_of(free), "return": total, **rate_of(free)}
        return (free, logits, opt_state), seen

    free = jnp.log(jnp.array([discount / (1 - discount), 0.1]))
    start = free, jnp.zeros((CELLS, 2)), tx.init(free)
    return jax.lax.scan(meta_step, start, jax.random.split(key, meta_steps))[1]


def draw(lives, path):
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    for ax, what in zip(figure.subplots(1, 2), ("return", "discount"), strict=True):
        for (name, life), line in zip(lives.items(), ("-", "--", ":"), strict=True):
            ax.plot(UPDATES * jnp.arange(life[what].size), life[what], line, label=name)
        ax.set(xlabel="update", ylabel=f"mean {what}", ylim=0)
    ax.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=90)


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--meta-steps", type=int, default=200)
    parser.add_argument("--out", type=pathlib.Path, default="out/meta_rl.png")
    args = parser.parse_args(argv)
    keys, lives = jax.random.split(jax.random.key(0), 16), {}
    starts = {"learned": (0.5, 0.1), "fixed 0.5": (0.5, 0.0), "fixed 0.99": (0.99, 0.0)}
    for name, start in starts.items():
        agents = jax.vmap(lambda key, s=start: live(key, *s, args.meta_steps))(keys)
        lives[name] = jax.tree.map(lambda x: x.mean(0), agents)
        print(name, *(f"{k} {x[-20:].mean():.2f}" for k, x in lives[name].items()))
    draw(lives, args.out)
    return lives


if __name__ == "__main__":
    main()
