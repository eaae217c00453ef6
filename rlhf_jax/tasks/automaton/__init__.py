"""Long texts from a Markov chain with an automaton's reward: not listable, yet known exactly."""

from rlhf_jax.tasks.automaton.task import make_automaton as make_automaton
