"""Pure array maths: masked statistics, distributions, KL, advantages, reward shaping."""
