"""Networks behind `Model(init, apply)`; the only room that imports flax."""
