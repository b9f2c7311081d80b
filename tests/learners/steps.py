"""What tests of learners share: programs that are compiled once for a learner and a shape."""

import equinox as eqx
import jax

KEY = jax.random.key(0)


@eqx.filter_jit
def begin(learner, data, num_latents=20, **base):
    return learner.init(data, num_latents=num_latents, key=KEY, **base)


@eqx.filter_jit
def take_step(learner, data, state):
    return learner.step(data, state)
