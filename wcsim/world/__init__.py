"""What a world is: transformer, codec, sampler, noise, and the pure functions that join them."""
