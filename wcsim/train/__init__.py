"""Training worlds from recordings: codec, state model, transformer (`wcsim train`)."""
